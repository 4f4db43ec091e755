--- mlxd for Neovim: a client of the daemon that keeps language models warm.
local M = {}

---@class mlxd.Options
---@field socket? string path of the daemon's socket; nil: the default path
---@field command? string[] command that starts the daemon; false: none
---@field model? string nil: the daemon's default
---@field system? string system prompt of `:Mlx` and `:MlxChat`
---@field params? table<string, any> parameters added to every request
---@field split? string command that opens the answer's window
---@field prefill? boolean prefill the text while the prompt is typed
---@field complete? mlxd.CompleteOptions

---@class mlxd.CompleteOptions
---@field auto? boolean complete as you type
---@field debounce_ms? integer pause in typing before a request
---@field budget_ms? integer completions that take longer are dropped
---@field max_tokens? integer
---@field prefix_chars? integer maximum text to send from before the cursor
---@field suffix_chars? integer maximum text to send from after the cursor
---@field filetypes? table<string, boolean> false: no completion for this filetype
---@field keys? table<string, string|false> whole, word, line, dismiss; keys in use are not changed

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

--- Set options. Others keep their defaults.
---@param options? mlxd.Options
function M.setup(options)
  M.options = vim.tbl_deep_extend('force', M.options, options or {})
  require('mlxd.complete').configure()
end

--- Return the progress of running answers for a statusline, or an empty string.
---@return string
function M.statusline()
  return require('mlxd.state').statusline()
end

return M
