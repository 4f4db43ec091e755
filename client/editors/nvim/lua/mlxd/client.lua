--- MessagePack-RPC over the daemon's socket. Never blocks the editor.
local M = {}
local codec = require('mlxd.codec')
local uv = vim.uv or vim.loop

---@class mlxd.Error
---@field code string
---@field message string
---@field hint string

---@class mlxd.Request
---@field cancel fun() cancels the request; `on_done` is not called

---@class mlxd.Waiting
---@field done fun(err: mlxd.Error?, result: any)
---@field event? fun(event: table<string, any>)

---@class mlxd.Connection
---@field pipe? any
---@field ready boolean
---@field queue { id: integer, data: string }[] requests to send once connected
---@field waiting table<integer, mlxd.Waiting>

---@type mlxd.Connection?
local connection
local next_id = 0
local START_MS = 15000

--- Return the value of a variable, or nil if it is unset or empty.
---@param name string
---@return string?
local function variable(name)
  local value = vim.env[name]
  return value ~= '' and value or nil
end

--- Return the path of the daemon's socket and the name of its setting. macOS ignores XDG variables.
---@return string path
---@return string origin
---@return string what
function M.socket_path()
  local mac = vim.fn.has('mac') == 1
  local function xdg(name)
    local value = not mac and variable(name)
    return value and value:sub(1, 1) == '/' and value or nil
  end
  local option, chosen = require('mlxd').options.socket, variable('MLXD_SOCKET')
  if option then return option, 'The option socket', 'socket' end
  if chosen then return chosen, 'MLXD_SOCKET', 'socket' end
  local runtime, state = xdg('XDG_RUNTIME_DIR'), variable('MLXD_STATE_DIR')
  if runtime then return runtime .. '/mlxd/mlxd.sock', 'XDG_RUNTIME_DIR', 'folder' end
  if state then return state .. '/mlxd.sock', 'MLXD_STATE_DIR', 'folder' end
  local home = variable('HOME') or uv.os_get_passwd().homedir
  if mac then return home .. '/Library/Application Support/mlxd/mlxd.sock', 'HOME', 'folder' end
  local base = xdg('XDG_STATE_HOME') or home .. '/.local/state'
  return base .. '/mlxd/mlxd.sock', 'HOME', 'folder'
end

---@param message string
---@param hint string
---@return mlxd.Error
local function unreachable(message, hint)
  return { code = 'daemon_unreachable', message = message, hint = hint }
end

--- Close a connection. Its requests end with the error `err`.
---@param ended mlxd.Connection
---@param err mlxd.Error
local function hang_up(ended, err)
  if connection == ended then connection = nil end
  if not ended.pipe:is_closing() then ended.pipe:close() end
  local waiting = ended.waiting
  ended.waiting = {}
  vim.schedule(function()
    for _, one in pairs(waiting) do one.done(err, nil) end
  end)
end

---@param owner mlxd.Connection
---@param message mlxd.Message
local function take(owner, message)
  local response, event = message.response, message.event
  if response then
    local one = owner.waiting[response.id]
    owner.waiting[response.id] = nil
    if one then vim.schedule(function() one.done(response.error, response.result) end) end
  elseif event then
    local one = owner.waiting[event.id]
    if one and one.event then vim.schedule(function() one.event(event) end) end
  end
end

---@param owner mlxd.Connection
local function read(owner)
  local decode = codec.decoder()
  owner.pipe:read_start(function(err, data)
    if err or not data then
      return hang_up(owner,
        unreachable('The daemon closed the connection.', 'Read its log: mlxd logs'))
    end
    for _, message in ipairs(decode(data)) do take(owner, message) end
  end)
end

---@param owner mlxd.Connection
local function connected(owner)
  owner.ready = true
  read(owner)
  for _, one in ipairs(owner.queue) do owner.pipe:write(one.data) end
  owner.queue = {}
end

local start

--- Connect. If no daemon listens, start one and connect again.
---@param owner mlxd.Connection
---@param may_start boolean
local function connect(owner, may_start)
  owner.pipe = uv.new_pipe(false)
  local path, origin, what = M.socket_path()
  if path:sub(1, 1) ~= '/' then
    local value = vim.env[origin] or path
    local message = ('%s must be an absolute path, not "%s".'):format(origin, value)
    local hint = ('Set it to the whole path of the %s, or unset it.'):format(what)
    return hang_up(owner, unreachable(message, hint))
  end
  local ok, begun, problem = pcall(owner.pipe.connect, owner.pipe, path, function(err)
    if not err then return connected(owner) end
    owner.pipe:close()
    if may_start then return vim.schedule(function() start(owner) end) end
    hang_up(owner, unreachable('No daemon is running (' .. err .. ').', 'Start it: mlxd start'))
  end)
  -- Some errors, such as a path that is too long, are immediate. Depending on luv's version they
  -- are raised or returned.
  if not ok or not begun then
    hang_up(owner, unreachable(tostring(ok and problem or begun), 'Check the option `socket`.'))
  end
end

--- The path of a program; nil if it is not found. A Neovim that was started from the Dock has a
--- PATH without the folders where uv, pipx and Homebrew install programs.
---@param name string
---@return string?
function M.program(name)
  local found = vim.fn.exepath(name)
  if found ~= '' then return found end
  for _, folder in ipairs({ vim.fn.expand('~/.local/bin'), '/opt/homebrew/bin', '/usr/local/bin' }) do
    local path = folder .. '/' .. name
    if not name:find('/') and vim.fn.executable(path) == 1 then return path end
  end
end

start = function(owner)
  local command = require('mlxd').options.command
  if not command or vim.env.MLXD_AUTOSTART == '0' then
    return hang_up(owner, unreachable('No daemon is running.', 'Start it: mlxd start'))
  end
  local said = {}
  local program = M.program(command[1])
  local found = program and vim.list_extend({ program }, command, 2) or command
  local ok, job = pcall(vim.fn.jobstart, found, {
    on_stderr = function(_, lines) vim.list_extend(said, lines) end,
    on_exit = function(_, status)
      if status == 0 then return connect(owner, false) end
      hang_up(owner,
        unreachable(vim.trim(table.concat(said, '\n')), 'Run it in the foreground: mlxd run'))
    end,
  })
  if not ok or job <= 0 then
    return hang_up(owner, unreachable(command[1] .. ' is not installed.',
      'Install mlxd, then run in a terminal: mlxd install'))
  end
  vim.defer_fn(function()
    if not owner.ready then vim.fn.jobstop(job) end
  end, START_MS)
end

---@param id integer
---@param data string
local function send(owner, id, data)
  if owner.ready then
    owner.pipe:write(data)
  else
    table.insert(owner.queue, { id = id, data = data })
  end
end

--- Cancel a request. If it is still queued for a daemon that is starting, it is never sent.
---@param owner mlxd.Connection
---@param id integer
local function withdraw(owner, id)
  if owner.ready then
    owner.pipe:write(codec.notification('cancel', { id = id }))
  else
    owner.queue = vim.tbl_filter(function(one) return one.id ~= id end, owner.queue)
  end
end

--- Send a request. The callbacks run on Neovim's main loop.
---@param method string
---@param params table<string, any>
---@param on_done fun(err: mlxd.Error?, result: any)
---@param on_event? fun(event: table) if given, the answer is streamed
---@return mlxd.Request
function M.request(method, params, on_done, on_event)
  local fresh = not connection
  local owner = connection or { ready = false, queue = {}, waiting = {} }
  connection = owner
  next_id = next_id + 1
  local id = next_id
  owner.waiting[id] = { done = on_done, event = on_event }
  if on_event then params = vim.tbl_extend('force', params, { stream = true }) end
  send(owner, id, codec.request(id, method, params))
  if fresh then connect(owner, true) end
  return {
    cancel = function()
      if owner.waiting[id] then
        owner.waiting[id] = nil
        withdraw(owner, id)
      end
    end,
  }
end

--- Close the connection, for tests and for `:MlxStop`.
function M.close()
  if connection then hang_up(connection, unreachable('Connection closed.', 'Ask again.')) end
end

return M
