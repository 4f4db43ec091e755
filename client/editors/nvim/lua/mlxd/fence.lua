--- Removes a Markdown fence around an answer while it streams.
local M = {}

---@class mlxd.Fence
---@field held string what may turn out to belong to the fence
---@field state 'start'|'inside'|'plain'
local Fence = {}
Fence.__index = Fence

---@return mlxd.Fence
function M.new() return setmetatable({ held = '', state = 'start' }, Fence) end

--- Return whether `begun` may be the beginning of an opening fence.
---@param text string
local function may_open(text)
  local begun = text:match('^%s*(.*)$')
  return #begun < 3 and begun == ('```'):sub(1, #begun) or begun:find('^```[^`\n]*$') ~= nil
end

--- Return the position of a possible closing fence at the end of `text`, or one past the end.
---@param text string
local function closing(text)
  local at = text:find('\n?`?`?`?%s*$')
  local first = text:find('\n```%s*$') or text:find('^```%s*$')
  return first or at
end

--- Feed text. Returns the text that can be written now.
---@param piece string
---@return string
function Fence:feed(piece)
  if self.state == 'plain' then return piece end
  local text = self.held .. piece
  self.held = ''
  if self.state == 'start' then
    local after = text:match('^%s*```[^`\n]*\n(.*)$')
    if after then
      self.state, text = 'inside', after
    elseif may_open(text) then
      self.held = text
      return ''
    else
      self.state = 'plain'
      return text
    end
  end
  local cut = closing(text)
  self.held = text:sub(cut)
  return text:sub(1, cut - 1)
end

--- End the answer. Returns the remaining text without the closing fence.
---@return string
function Fence:finish()
  local held = self.held
  self.held = ''
  if self.state == 'inside' and (held:find('^\n```%s*$') or held:find('^```%s*$')) then return '' end
  return held
end

return M
