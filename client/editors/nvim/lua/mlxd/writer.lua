--- Inserts streamed text into a buffer as one undo step.
local M = {}
local namespace = vim.api.nvim_create_namespace('mlxd.writer')

---@class mlxd.Writer
---@field buffer integer
---@field mark integer extmark at the end of the written text
---@field tick integer changedtick after the last write
local Writer = {}
Writer.__index = Writer

--- Create a writer at (row, column), both from 0.
---@param buffer integer
---@param row integer
---@param column integer
---@return mlxd.Writer
function M.new(buffer, row, column)
  local mark = vim.api.nvim_buf_set_extmark(buffer, namespace, row, column, {})
  return setmetatable({ buffer = buffer, mark = mark, tick = -1 }, Writer)
end

--- Return the position of the next text, or nil if the buffer or the position is gone.
---@return integer?, integer?
function Writer:position()
  if not vim.api.nvim_buf_is_valid(self.buffer) then return nil end
  local at = vim.api.nvim_buf_get_extmark_by_id(self.buffer, namespace, self.mark, {})
  return at[1], at[2]
end

---@param text string
---@return boolean written
function Writer:write(text)
  local row, column = self:position()
  if not row then return false end
  -- Join the undo step only if nothing else changed the buffer since.
  if self.tick == vim.api.nvim_buf_get_changedtick(self.buffer) then
    vim.api.nvim_buf_call(self.buffer, function() pcall(vim.cmd, 'silent! undojoin') end)
  end
  vim.api.nvim_buf_set_text(self.buffer, row, column, row, column, vim.split(text, '\n'))
  self.tick = vim.api.nvim_buf_get_changedtick(self.buffer)
  return true
end

--- Delete `lines` at the position. Returns false if they have changed.
---@param lines string[] the expected lines
---@return boolean done false: the lines have changed
function Writer:replace(lines)
  local row = self:position()
  if not row then return false end
  local now = vim.api.nvim_buf_get_lines(self.buffer, row, row + #lines, false)
  if not vim.deep_equal(now, lines) then return false end
  vim.api.nvim_buf_set_lines(self.buffer, row, row + #lines, false, { '' })
  vim.api.nvim_buf_set_extmark(self.buffer, namespace, row, 0, { id = self.mark })
  self.tick = vim.api.nvim_buf_get_changedtick(self.buffer)
  return true
end

function Writer:close()
  if vim.api.nvim_buf_is_valid(self.buffer) then
    vim.api.nvim_buf_del_extmark(self.buffer, namespace, self.mark)
  end
end

return M
