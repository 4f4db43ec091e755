--- Completion as ghost text after the cursor. Stale completions are never shown.
local M = {}
local api = vim.api
local uv = vim.uv or vim.loop
local namespace = api.nvim_create_namespace('mlxd.complete')
local group = api.nvim_create_augroup('mlxd.complete', { clear = true })

---@class mlxd.Ghost
---@field buffer integer
---@field row integer
---@field column integer the cursor's column
---@field tick integer changedtick of the buffer it belongs to
---@field text string

---@type mlxd.Ghost?
local ghost
---@type mlxd.Request?
local request
local debounce = uv.new_timer()
local budget = uv.new_timer()
-- Increases with every change of the buffer. Requests of older generations are stale.
local generation = 0
-- Counts of requests, prefills, shown completions and stale events, for benchmarks.
M.counts = { asked = 0, warmed = 0, shown = 0, stale = 0 }

-- Errors that need no message, because the user need not act on them.
local QUIET = { superseded = true, cancelled = true, deadline_exceeded = true, overloaded = true,
  engine_died = true, shutting_down = true }
local PAUSE_MS = 30000
-- No requests before this time, so that a failing start of the daemon is not repeated at every key.
local paused_until = 0
---@type table<string, boolean> error codes that were reported
local said = {}

---@return mlxd.CompleteOptions
local function options() return require('mlxd').options.complete end

local function erase()
  if ghost then
    if api.nvim_buf_is_valid(ghost.buffer) then
      api.nvim_buf_clear_namespace(ghost.buffer, namespace, 0, -1)
    end
    ghost = nil
  end
end

--- Remove the ghost text and cancel the request.
function M.dismiss()
  generation = generation + 1
  debounce:stop()
  budget:stop()
  erase()
  if request then
    request.cancel()
    request = nil
  end
end

--- Draw the ghost text. Its first line overlays the text right of the cursor, so it repeats that
--- text.
local function draw()
  local shown = ghost --[[@as mlxd.Ghost]]
  local lines = vim.split(shown.text, '\n')
  local line = api.nvim_buf_get_lines(shown.buffer, shown.row, shown.row + 1, false)[1] or ''
  local rest = line:sub(shown.column + 1)
  local inline = vim.fn.has('nvim-0.10') == 1
  local first = { { lines[1], 'MlxdGhost' } }
  if rest ~= '' and not inline then table.insert(first, { rest, 'Normal' }) end
  local below = {}
  for i = 2, #lines do below[#below + 1] = { { lines[i], 'MlxdGhost' } } end
  api.nvim_buf_clear_namespace(shown.buffer, namespace, 0, -1)
  api.nvim_buf_set_extmark(shown.buffer, namespace, shown.row, shown.column, {
    virt_text = first,
    virt_text_pos = inline and 'inline' or 'overlay',
    virt_lines = #below > 0 and below or nil,
    hl_mode = 'combine',
  })
end

--- Return the end of the last whole UTF-8 character within `most` bytes.
---@param text string
---@param most integer
---@return integer
local function whole(text, most)
  if #text <= most then return #text end
  local byte = text:byte(most + 1)
  while most > 0 and byte >= 0x80 and byte < 0xC0 do
    most = most - 1
    byte = text:byte(most + 1)
  end
  return most
end

--- Return the end of the text before the cursor. Its start moves in steps, so that most requests
--- share a prefix with the one before and hit the cache.
---@param text string
---@param most integer
---@return string
local function recent(text, most)
  if #text <= most then return text end
  local half = math.floor(most / 2)
  local jump = math.floor((#text - half) / half) * half
  local line = text:find('\n', jump, true)
  return text:sub((line or whole(text, jump)) + 1)
end

--- Return the text before and after the cursor.
---@return string prefix
---@return string suffix
function M.context()
  local limits = options()
  local cursor = api.nvim_win_get_cursor(0)
  local row, column = cursor[1] - 1, cursor[2]
  local lines = api.nvim_buf_get_lines(0, 0, row, false)
  local here = api.nvim_get_current_line()
  table.insert(lines, here:sub(1, column))
  local after = api.nvim_buf_get_lines(0, row + 1, row + 200, false)
  table.insert(after, 1, here:sub(column + 1))
  local suffix = table.concat(after, '\n')
  return recent(table.concat(lines, '\n'), limits.prefix_chars),
    suffix:sub(1, whole(suffix, limits.suffix_chars))
end

---@param at mlxd.Ghost
---@return boolean
local function current(at)
  if api.nvim_get_current_buf() ~= at.buffer then return false end
  local cursor = api.nvim_win_get_cursor(0)
  return api.nvim_get_mode().mode:sub(1, 1) == 'i' and cursor[1] - 1 == at.row
    and cursor[2] == at.column and api.nvim_buf_get_changedtick(at.buffer) == at.tick
end

---@param prefix string
---@param suffix string
---@param purpose string a new request cancels older ones for the same purpose
---@return table<string, any>
local function params(prefix, suffix, purpose)
  local all = require('mlxd').options
  return vim.tbl_extend('force', {
    model = all.model,
    prefix = prefix,
    suffix = suffix,
    temperature = 0,
    supersede = ('nvim-%d-%d%s'):format(vim.fn.getpid(), api.nvim_get_current_buf(), purpose),
  }, all.params)
end

--- Report an error once, unless the user need not act on it.
---@param err mlxd.Error
local function trouble(err)
  if QUIET[err.code] then return end
  if err.code == 'daemon_unreachable' then paused_until = uv.now() + PAUSE_MS end
  if said[err.code] then return end
  said[err.code] = true
  require('mlxd.state').complain(err)
end

--- Append a piece of the answer to the ghost text, unless the buffer or cursor has changed.
---@param coming mlxd.Ghost
---@param asked integer the generation of the request
---@param text string
local function grow(coming, asked, text)
  if asked ~= generation or not current(coming) then
    M.counts.stale = M.counts.stale + 1
    return
  end
  coming.text = coming.text .. text
  if coming.text:find('%S') then
    M.counts.shown = M.counts.shown + 1
    ghost = coming
    draw()
  end
end

local function ask()
  if uv.now() < paused_until then return end
  local buffer = api.nvim_get_current_buf()
  local cursor = api.nvim_win_get_cursor(0)
  ---@type mlxd.Ghost
  local coming = { buffer = buffer, row = cursor[1] - 1, column = cursor[2],
    tick = api.nvim_buf_get_changedtick(buffer), text = '' }
  local prefix, suffix = M.context()
  if not prefix:find('%S') then return end
  local limits, asked = options(), generation
  local wish = params(prefix, suffix, '')
  wish.max_tokens, wish.deadline_s = limits.max_tokens, limits.budget_ms / 1000
  M.counts.asked = M.counts.asked + 1
  budget:start(limits.budget_ms, 0, vim.schedule_wrap(function()
    if asked == generation and request then
      request.cancel()
      request = nil
    end
  end))
  request = require('mlxd.client').request('fill', wish, function(err)
    if asked == generation then
      request = nil
      budget:stop()
    end
    if err then trouble(err) end
  end, function(event)
    if event.type == 'delta' then grow(coming, asked, event.text) end
  end)
end

--- Keep the ghost text if the user types its beginning, or accepted a part of it.
---@return boolean
local function still_fits()
  if not ghost or ghost.buffer ~= api.nvim_get_current_buf() then return false end
  local cursor, tick = api.nvim_win_get_cursor(0), api.nvim_buf_get_changedtick(0)
  local row, column = cursor[1] - 1, cursor[2]
  if row ~= ghost.row or column < ghost.column then return false end
  if tick == ghost.tick then return column == ghost.column end
  local typed = api.nvim_get_current_line():sub(ghost.column + 1, column)
  if typed == '' or #ghost.text == #typed or ghost.text:sub(1, #typed) ~= typed then
    return false
  end
  ghost.text, ghost.column, ghost.tick = ghost.text:sub(#typed + 1), column, tick
  draw()
  return true
end

---@return boolean
local function wanted()
  local buffer = api.nvim_get_current_buf()
  return vim.bo[buffer].buftype == '' and vim.bo[buffer].modifiable
    and options().filetypes[vim.bo[buffer].filetype] ~= false and vim.fn.pumvisible() == 0
end

--- Handle a change of the text: request a completion when typing pauses.
function M.changed()
  if still_fits() then return end
  M.dismiss()
  if wanted() then
    debounce:start(options().debounce_ms, 0, vim.schedule_wrap(function()
      if api.nvim_get_mode().mode:sub(1, 1) == 'i' then ask() end
    end))
  end
end

local function moved()
  if ghost and not still_fits() then M.dismiss() end
end

--- Prefill the text at the start of insert mode.
function M.warm()
  if not wanted() or uv.now() < paused_until then return end
  local prefix, suffix = M.context()
  if not prefix:find('%S') then return end
  M.counts.warmed = M.counts.warmed + 1
  local wish = params(prefix, suffix, '-warm')
  wish.priority = 'completion'
  require('mlxd.client').request('prefill', wish, function(err)
    if err then trouble(err) end
  end)
end

---@param text string
---@param part 'whole'|'word'|'line'
---@return string
local function portion(text, part)
  if part == 'word' then
    -- A word by 'iskeyword', in any script, or else a run of other characters.
    local word = vim.fn.matchstr(text, [[^\_s*\%(\k\+\|\%(\k\@!\S\)\+\)]])
    return word ~= '' and word or text
  end
  if part == 'line' then return text:match('^\n?[^\n]*') end
  return text
end

--- Insert the ghost text, or its first word or line. Return false if there is none.
---@param part 'whole'|'word'|'line'
---@return boolean
function M.accept(part)
  if not ghost then return false end
  local shown = ghost
  local taken = portion(shown.text, part)
  local rest = shown.text:sub(#taken + 1)
  M.dismiss()
  local lines = vim.split(taken, '\n')
  -- A separate undo step.
  vim.cmd('let &undolevels = &undolevels')
  api.nvim_buf_set_text(shown.buffer, shown.row, shown.column, shown.row, shown.column, lines)
  local row = shown.row + #lines - 1
  local column = #lines[#lines] + (#lines == 1 and shown.column or 0)
  api.nvim_win_set_cursor(0, { row + 1, column })
  if rest ~= '' then
    local tick = api.nvim_buf_get_changedtick(shown.buffer)
    ghost = { buffer = shown.buffer, row = row, column = column, tick = tick, text = rest }
    draw()
  end
  return true
end

--- Return whether a request is in flight.
---@return boolean
function M.busy() return request ~= nil end

--- Return the ghost text, or nil.
---@return string?
function M.shown() return ghost and ghost.text end

---@param want string 'on', 'off', or '' to toggle
function M.toggle(want)
  local complete = options()
  if want == '' then want = complete.auto and 'off' or 'on' end
  complete.auto = want == 'on'
  M.configure()
end

--- Map a key that has no mapping yet. Without ghost text the key keeps its meaning.
---@param key string
---@param act fun()
local function map(key, act)
  if vim.fn.maparg(key, 'i') ~= '' then return end
  vim.keymap.set('i', key, function()
    if not ghost then return key end
    vim.schedule(act)
    return ''
  end, { expr = true, replace_keycodes = true, desc = 'mlxd' })
end

--- Apply the options.
function M.configure()
  api.nvim_clear_autocmds({ group = group })
  vim.cmd('highlight default link MlxdGhost Comment')
  M.dismiss()
  if not options().auto then return end
  api.nvim_create_autocmd('TextChangedI', { group = group, callback = M.changed })
  api.nvim_create_autocmd('CursorMovedI', { group = group, callback = moved })
  api.nvim_create_autocmd('InsertEnter', { group = group, callback = M.warm })
  -- The popup menu has its own events. CTRL-C leaves insert mode without InsertLeave, and in older
  -- versions without ModeChanged. There, CursorMoved fires because the cursor steps back.
  api.nvim_create_autocmd({ 'InsertLeave', 'BufLeave', 'TextChangedP', 'CompleteChanged' },
    { group = group, callback = M.dismiss })
  api.nvim_create_autocmd('CursorMoved', { group = group, callback = function()
    if ghost or request then M.dismiss() end
  end })
  api.nvim_create_autocmd('ModeChanged', { group = group, pattern = 'i*:[^i]*', callback = M.dismiss })
  for part, key in pairs(options().keys) do
    if key then
      map(key, function()
        if part == 'dismiss' then M.dismiss() else M.accept(part) end
      end)
    end
  end
end

return M
