--- `:Mlx {prompt}`: about the selection or the buffer, into a split or in place.
local M = {}
local api = vim.api

---@param lines string[]
---@param filetype string
---@return string
local function fenced(lines, filetype)
  local text = table.concat(lines, '\n')
  local fence = text:find('```', 1, true) and '````' or '```'
  return fence .. filetype .. '\n' .. text .. '\n' .. fence
end

---@param prompt string
---@param lines string[]
---@param in_place boolean
---@return table[]
local function messages_of(prompt, lines, in_place)
  local options = require('mlxd').options
  local found = {}
  if options.system then table.insert(found, { role = 'system', content = options.system }) end
  if #lines > 0 and table.concat(lines):find('%S') then
    prompt = prompt .. '\n\n' .. fenced(lines, vim.bo.filetype)
    if in_place then prompt = prompt .. '\n\nAnswer with the new text alone.' end
  end
  table.insert(found, { role = 'user', content = prompt })
  return found
end

---@return table<string, any>
function M.params(messages)
  local options = require('mlxd').options
  return vim.tbl_extend('force', { model = options.model, messages = messages }, options.params)
end

--- Stream an answer to `write`; `finished(err, result)` comes last.
---@param messages table[]
---@param write fun(text: string): boolean false: nobody wants it any more
---@param finished fun(err: mlxd.Error?, result: any)
---@return fun() stop
function M.stream(messages, write, finished)
  local state = require('mlxd.state')
  local request, work
  local function over(err, result)
    state.finish(work)
    finished(err, result)
  end
  local function stop()
    request.cancel()
    over({ code = 'cancelled', message = 'Stopped.', hint = '' }, nil)
  end
  work = state.begin('mlx', stop)
  request = require('mlxd.client').request('chat', M.params(messages), over, function(event)
    if event.type == 'delta' and event.channel == 'answer' then
      state.progress(work)
      if not write(event.text) then stop() end
    end
  end)
  return stop
end

---@param err mlxd.Error?
local function report(err)
  if err and err.code ~= 'cancelled' then require('mlxd.state').complain(err) end
end

---@return integer buffer
local function answer_buffer(prompt)
  vim.cmd(require('mlxd').options.split)
  local buffer = api.nvim_get_current_buf()
  vim.bo[buffer].buftype, vim.bo[buffer].bufhidden = 'nofile', 'hide'
  vim.bo[buffer].swapfile, vim.bo[buffer].filetype = false, 'markdown'
  vim.wo.wrap, vim.wo.linebreak = true, true
  pcall(api.nvim_buf_set_name, buffer, 'mlx: ' .. prompt:sub(1, 40):gsub('%s+', ' '))
  vim.keymap.set('n', '<C-c>', '<Cmd>MlxStop<CR>', { buffer = buffer, desc = 'Stop the answer' })
  return buffer
end

---@param prompt string
---@param lines string[]
local function into_split(prompt, lines)
  local messages = messages_of(prompt, lines, false)
  local from = api.nvim_get_current_win()
  local writer = require('mlxd.writer').new(answer_buffer(prompt), 0, 0)
  api.nvim_set_current_win(from)
  M.stream(messages, function(text) return writer:write(text) end, function(err)
    writer:close()
    report(err)
  end)
end

--- Replace the lines, or write at the cursor where there is no range.
---@param prompt string
---@param first integer? line from 1
---@param last integer?
local function in_place(prompt, first, last)
  local buffer = api.nvim_get_current_buf()
  if not vim.bo[buffer].modifiable then
    return require('mlxd.state').complain({ message = 'This buffer cannot be changed.',
      hint = 'Without the bang the answer goes into a split.' })
  end
  local cursor = api.nvim_win_get_cursor(0)
  local row, column = cursor[1] - 1, cursor[2]
  local lines = {}
  if first and last then
    lines, row, column = api.nvim_buf_get_lines(buffer, first - 1, last, false), first - 1, 0
  end
  local writer = require('mlxd.writer').new(buffer, row, column)
  local begun = not first
  M.stream(messages_of(prompt, lines, true), function(text)
    if not begun then
      -- The old text goes only when there is a new one.
      begun = true
      local at = writer:position()
      if not at then return false end
      api.nvim_buf_set_lines(buffer, at, at + #lines, false, { '' })
      writer = require('mlxd.writer').new(buffer, at, 0)
      writer.tick = api.nvim_buf_get_changedtick(buffer)
    end
    return writer:write(text)
  end, function(err)
    writer:close()
    report(err)
  end)
end

--- `:[range]Mlx[!] {prompt}`.
---@param a { args: string, range: integer, line1: integer, line2: integer, bang: boolean }
function M.command(a)
  local ranged = a.range > 0
  if a.bang then
    return in_place(a.args, ranged and a.line1 or nil, ranged and a.line2 or nil)
  end
  local first, last = ranged and a.line1 - 1 or 0, ranged and a.line2 or -1
  into_split(a.args, api.nvim_buf_get_lines(0, first, last, false))
end

return M
