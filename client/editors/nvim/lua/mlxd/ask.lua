--- `:Mlx {prompt}`: sends a prompt with the selection or the buffer. The answer goes to a split or
--- replaces the text.
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

--- The text precedes the question, so that the next question about it is a cache hit.
---@param lines string[]
---@return string
local function about(lines)
  if not table.concat(lines):find('%S') then return '' end
  return fenced(lines, vim.bo.filetype) .. '\n\n'
end

---@param content string
---@return table[]
local function messages_of(content)
  local system = require('mlxd').options.system
  local found = { { role = 'user', content = content } }
  if system then table.insert(found, 1, { role = 'system', content = system }) end
  return found
end

---@param messages table[]
---@return table<string, any>
function M.params(messages)
  local options = require('mlxd').options
  return vim.tbl_extend('force', { model = options.model, messages = messages }, options.params)
end

--- Stream an answer to `write`, then call `finished(err, result)`.
---@param messages table[]
---@param write fun(text: string): boolean false: stop the answer
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
  local messages = messages_of(about(lines) .. prompt)
  local from = api.nvim_get_current_win()
  local writer = require('mlxd.writer').new(answer_buffer(prompt), 0, 0)
  api.nvim_set_current_win(from)
  M.stream(messages, function(text) return writer:write(text) end, function(err)
    writer:close()
    report(err)
  end)
end

--- Replace the lines, or write at the cursor if there is no range.
---@param prompt string
---@param first integer? line from 1
---@param last integer?
local function in_place(prompt, first, last)
  local buffer = api.nvim_get_current_buf()
  if not vim.bo[buffer].modifiable then
    return require('mlxd.state').complain({ message = 'This buffer is not modifiable.',
      hint = 'Without the bang, the answer opens in a split.' })
  end
  local cursor = api.nvim_win_get_cursor(0)
  local row, column = cursor[1] - 1, cursor[2]
  local lines = {}
  if first and last then
    lines, row, column = api.nvim_buf_get_lines(buffer, first - 1, last, false), first - 1, 0
  end
  local content = about(lines) .. prompt
  if first then content = content .. '\n\nAnswer with the new text alone.' end
  -- In Markdown, a fence may be part of the answer.
  local fence = vim.bo[buffer].filetype ~= 'markdown' and require('mlxd.fence').new() or nil
  local writer = require('mlxd.writer').new(buffer, row, column)
  local function write(text)
    if text == '' then return true end
    if #lines > 0 then
      -- Delete the old text only when there is new text.
      if not writer:replace(lines) then
        require('mlxd.state').complain({ message = 'The text changed while the model answered.',
          hint = 'It was not replaced. Ask again.' })
        return false
      end
      lines = {}
    end
    return writer:write(text)
  end
  M.stream(messages_of(content), function(text)
    return write(fence and fence:feed(text) or text)
  end, function(err)
    if fence then write(fence:finish()) end
    writer:close()
    report(err)
  end)
end

--- Parse the range at the start of a command line: lines from 0, end exclusive.
---@param range string
---@return integer, integer
local function lines_of(range)
  if range == "'<,'>" then return vim.fn.line("'<") - 1, vim.fn.line("'>") end
  local first, last = range:match('^(%d+),(%d+)$')
  return first and first - 1 or 0, tonumber(last) or -1
end

--- Prefill the text while the prompt is being typed on the command line.
---@param line string the command line so far
---@return boolean asked
function M.warm(line)
  local range, bang = line:match("^([%d,%%'<>]*)Mlx(!?) $")
  if not range or (bang == '!' and range == '') then return false end
  local first, last = lines_of(range)
  local content = about(api.nvim_buf_get_lines(0, first, last, false))
  if content == '' then return false end
  local params = M.params(messages_of(content))
  params.supersede = ('nvim-ask-%d'):format(vim.fn.getpid())
  params.priority = 'completion'
  -- Errors are ignored here, because the request itself will report them.
  require('mlxd.client').request('prefill', params, function() end)
  return true
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
