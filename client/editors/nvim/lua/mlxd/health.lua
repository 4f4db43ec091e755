--- `:checkhealth mlxd`.
local M = {}
local health = vim.health or require('health')
local say = {
  start = health.start or health.report_start,
  ok = health.ok or health.report_ok,
  warn = health.warn or health.report_warn,
  error = health.error or health.report_error,
}
local ANSWER_MS = 5000

local function program()
  local command = require('mlxd').options.command
  if not command then
    say.ok('The plugin does not start a daemon, because the option `command` is false.')
  elseif require('mlxd.client').program(command[1]) then
    say.ok(('`%s` is installed.'):format(command[1]))
  else
    say.error(('`%s` is not in $PATH.'):format(command[1]), { 'Install mlxd, then run in a terminal: mlxd install' })
  end
end

---@param method string
---@return mlxd.Error?, any
local function ask(method)
  local done, err, result = false, nil, nil
  require('mlxd.client').request(method, {}, function(e, r)
    done, err, result = true, e, r
  end)
  if not vim.wait(ANSWER_MS, function() return done end, 10) then
    return { message = 'The daemon does not answer.', hint = 'Check it: mlxd status' }, nil
  end
  return err, result
end

function M.check()
  say.start('mlxd')
  program()
  local err, status = ask('status')
  if err then
    say.error(err.message, { err.hint })
    return
  end
  say.ok(('The daemon %s answers at %s.'):format(status.version, status.socket))
  local models = {}
  for _, model in ipairs(status.models) do table.insert(models, model.model) end
  local warm = #models > 0 and table.concat(models, ', ') or 'none (the first request loads one)'
  say.ok('In memory: ' .. warm)
  if status.default_model == 'pocket' then
    say.warn('The default model is the small built-in model.',
      { 'Download another: mlx models pull ORG/NAME, then mlx models default NAME' })
  else
    say.ok('The default model is ' .. status.default_model)
  end
end

return M
