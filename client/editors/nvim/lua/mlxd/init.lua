--- mlxd for Neovim: asks the daemon that keeps language models warm.
local M = {}

---@class mlxd.Options
---@field socket? string the daemon's socket; nil: where the daemon puts it by default
---@field command? string[] what starts the daemon; false: never start one
---@field model? string nil: the daemon's default
---@field system? string system prompt of `:Mlx` and `:MlxChat`
---@field params? table<string, any> further parameters of every request
---@field split? string the command that opens the answer's window
---@field prefill? boolean let the daemon read the text while the question is typed
---@field complete? mlxd.CompleteOptions

---@class mlxd.CompleteOptions
---@field auto? boolean complete as you type
---@field debounce_ms? integer pause in typing before the daemon is asked
---@field budget_ms? integer an answer that takes longer is not wanted any more
---@field max_tokens? integer
---@field prefix_chars? integer the most text before the cursor that is sent
---@field suffix_chars? integer the most text after the cursor that is sent
---@field filetypes? table<string, boolean> false: not in these
---@field keys? table<string, string|false> whole, word, line, dismiss; a key in use is left alone

---@type mlxd.Options
M.options = {
  command = { 'mlxd', 'start' },
  params = {},
  split = 'botright vnew',
  prefill = true,
  complete = {
    auto = false,
    debounce_ms = 60,
    budget_ms = 1500,
    max_tokens = 48,
    prefix_chars = 6000,
    suffix_chars = 1500,
    filetypes = { TelescopePrompt = false, mlxd = false },
    keys = { whole = '<M-l>', word = '<M-w>', line = '<M-j>', dismiss = '<M-e>' },
  },
}

--- Take options; what is not given keeps its default.
---@param options? mlxd.Options
function M.setup(options)
  M.options = vim.tbl_deep_extend('force', M.options, options or {})
  require('mlxd.complete').configure()
end

--- What goes on, for a statusline; empty where nothing does.
---@return string
function M.statusline()
  return require('mlxd.state').statusline()
end

return M
