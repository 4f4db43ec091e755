--- The running answers, for the statusline and for `:MlxStop`.
local M = {}

---@class mlxd.Work
---@field label string
---@field tokens integer
---@field stop fun()

---@type table<integer, mlxd.Work>
local works = {}
local last = 0
local FRAMES = { '⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏' }

--- Register a running answer.
---@param label string
---@param stop fun()
---@return integer
function M.begin(label, stop)
  last = last + 1
  works[last] = { label = label, tokens = 0, stop = stop }
  vim.cmd('redrawstatus')
  return last
end

---@param id integer
function M.progress(id)
  local work = works[id]
  if work then
    work.tokens = work.tokens + 1
    if work.tokens % 8 == 1 then vim.cmd('redrawstatus') end
  end
end

---@param id integer
function M.finish(id)
  works[id] = nil
  vim.cmd('redrawstatus')
end

function M.stop_all()
  for id, work in pairs(works) do
    works[id] = nil
    work.stop()
  end
  vim.cmd('redrawstatus')
end

---@return string
function M.statusline()
  local parts = {}
  for _, work in pairs(works) do
    local frame = FRAMES[work.tokens % #FRAMES + 1]
    table.insert(parts, frame .. ' ' .. work.label .. (work.tokens > 0 and ' ' .. work.tokens or ''))
  end
  table.sort(parts)
  return table.concat(parts, '  ')
end

--- Show an error and its hint.
---@param err mlxd.Error
function M.complain(err)
  vim.notify(('mlxd: %s\n%s'):format(err.message, err.hint or ''), vim.log.levels.ERROR)
end

return M
