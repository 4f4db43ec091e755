--- `:MlxChat`: a conversation in a Markdown buffer. Enter in normal mode sends.
local M = {}
local api = vim.api
local YOU, MODEL = '## You', '## Model'
local PREFILL_MS = 400

---@type table<integer, fun()> maps a buffer to the function that stops its answer
local answering = {}
local pause = (vim.uv or vim.loop).new_timer()

--- Read the conversation from the buffer, including the user's edits.
---@param buffer integer
---@return table[]
function M.messages(buffer)
  local found, role, lines = {}, nil, {}
  local function finish()
    local text = vim.trim(table.concat(lines, '\n'))
    if role and text ~= '' then table.insert(found, { role = role, content = text }) end
    lines = {}
  end
  for _, line in ipairs(api.nvim_buf_get_lines(buffer, 0, -1, false)) do
    if line == YOU or line == MODEL then
      finish()
      role = line == YOU and 'user' or 'assistant'
    else
      table.insert(lines, line)
    end
  end
  finish()
  local system = require('mlxd').options.system
  if system then table.insert(found, 1, { role = 'system', content = system }) end
  return found
end

---@param buffer integer
---@param lines string[]
local function append(buffer, lines)
  api.nvim_buf_set_lines(buffer, -1, -1, false, lines)
  for _, window in ipairs(vim.fn.win_findbuf(buffer)) do
    api.nvim_win_set_cursor(window, { api.nvim_buf_line_count(buffer), 0 })
  end
end

---@param buffer integer
local function send(buffer)
  local messages = M.messages(buffer)
  if answering[buffer] or #messages == 0 or messages[#messages].role ~= 'user' then return end
  append(buffer, { '', MODEL, '', '' })
  local writer = require('mlxd.writer').new(buffer, api.nvim_buf_line_count(buffer) - 1, 0)
  answering[buffer] = require('mlxd.ask').stream(messages, function(text)
    return writer:write(text)
  end, function(err)
    answering[buffer] = nil
    writer:close()
    if not api.nvim_buf_is_valid(buffer) then return end
    append(buffer, { '', YOU, '', '' })
    if err and err.code ~= 'cancelled' then require('mlxd.state').complain(err) end
  end)
end

---@param buffer integer
local function warm(buffer)
  if not api.nvim_buf_is_valid(buffer) or answering[buffer] then return end
  local messages = M.messages(buffer)
  if #messages == 0 then return end
  local params = require('mlxd.ask').params(messages)
  params.supersede = ('nvim-chat-%d-%d'):format(vim.fn.getpid(), buffer)
  params.priority = 'completion'
  -- Errors are ignored here, because the request itself will report them.
  require('mlxd.client').request('prefill', params, function() end)
end

--- Prefill the conversation while the prompt is being typed.
---@param buffer integer
local function prefill(buffer)
  if not require('mlxd').options.prefill then return end
  pause:start(PREFILL_MS, 0, vim.schedule_wrap(function() warm(buffer) end))
end

--- Open a chat buffer, optionally with a first prompt.
---@param question string
function M.open(question)
  vim.cmd(require('mlxd').options.split)
  local buffer = api.nvim_get_current_buf()
  vim.bo[buffer].buftype, vim.bo[buffer].bufhidden = 'nofile', 'hide'
  vim.bo[buffer].swapfile, vim.bo[buffer].filetype = false, 'markdown'
  vim.wo.wrap, vim.wo.linebreak = true, true
  pcall(api.nvim_buf_set_name, buffer, 'mlx chat ' .. buffer)
  vim.b[buffer].mlxd_chat = true
  api.nvim_buf_set_lines(buffer, 0, -1, false, { YOU, '', question })
  api.nvim_win_set_cursor(0, { 3, #question })
  local map = function(key, what, desc)
    vim.keymap.set('n', key, what, { buffer = buffer, desc = desc })
  end
  map('<CR>', function() send(buffer) end, 'Send')
  map('<C-c>', function()
    if answering[buffer] then answering[buffer]() end
  end, 'Stop the answer')
  api.nvim_create_autocmd('TextChangedI', {
    buffer = buffer,
    callback = function() prefill(buffer) end,
  })
  api.nvim_create_autocmd('BufWipeout', {
    buffer = buffer,
    callback = function()
      if answering[buffer] then answering[buffer]() end
    end,
  })
  if question ~= '' then send(buffer) end
end

return M
