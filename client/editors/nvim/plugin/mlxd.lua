-- Defines commands only. The modules are loaded on first use.
if vim.g.loaded_mlxd then return end
vim.g.loaded_mlxd = true
local command = vim.api.nvim_create_user_command

command('Mlx', function(a) require('mlxd.ask').command(a) end,
  { nargs = '+', range = true, bang = true, desc = 'Ask about the selection or the buffer' })
command('MlxChat', function(a) require('mlxd.chat').open(a.args) end,
  { nargs = '*', desc = 'Chat with a model in a buffer' })
command('MlxStop', function() require('mlxd.state').stop_all() end,
  { desc = 'Stop all answers' })
command('MlxComplete', function(a) require('mlxd.complete').toggle(a.args) end, {
  nargs = '?',
  complete = function() return { 'on', 'off' } end,
  desc = 'Turn completion as you type on or off',
})
for _, part in ipairs({ 'whole', 'word', 'line' }) do
  vim.keymap.set('i', '<Plug>(mlxd-accept-' .. part .. ')', function()
    require('mlxd.complete').accept(part)
  end)
end
vim.keymap.set('i', '<Plug>(mlxd-dismiss)', function() require('mlxd.complete').dismiss() end)
vim.api.nvim_create_autocmd('CmdlineChanged', {
  pattern = ':',
  group = vim.api.nvim_create_augroup('mlxd.ask', { clear = true }),
  callback = function()
    -- Must be cheap: it runs for every key of every command line.
    local line = vim.fn.getcmdline()
    if line:find('Mlx!? $') and require('mlxd').options.prefill then require('mlxd.ask').warm(line) end
  end,
})
