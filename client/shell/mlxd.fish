# mlxd for fish:  mlx shell-init fish | source
#
#   Alt-K   turn the text on the line into a command (never run)
#   Alt-X   explain the command on the line
#   Alt-J   suggest a fix for the command that just failed
#
# The same key again stops an answer. Set MLXD_KEY_COMMAND, MLXD_KEY_EXPLAIN and MLXD_KEY_FIX before
# this line for other keys ("" for none), and MLXD_MODEL for a model. fish has no Unix sockets, so
# `mlx` runs in the background and the line changes when it is done. The line editor never waits.

function _mlxd_ask --argument-names kind system question
    if set -q _mlxd_pid
        _mlxd_stop
        return
    end
    set -g _mlxd_kind $kind
    set -g _mlxd_line (commandline | string collect)
    set -g _mlxd_file (mktemp)
    set -l model
    test -n "$MLXD_MODEL"; and set model -m $MLXD_MODEL
    command mlx ask --plain --no-log --temp 0 --max-tokens 300 $model -s $system -- $question \
        </dev/null >$_mlxd_file 2>$_mlxd_file.err &
    set -g _mlxd_pid $last_pid
    function _mlxd_done --on-process-exit $_mlxd_pid
        _mlxd_finish $argv[3]
    end
end

function _mlxd_stop
    kill -INT $_mlxd_pid 2>/dev/null
    _mlxd_forget
end

function _mlxd_forget
    functions --erase _mlxd_done
    rm -f $_mlxd_file $_mlxd_file.err
    set -e _mlxd_pid
end

function _mlxd_finish --argument-names code
    # Remove control characters, which could affect the terminal.
    set -g _mlxd_said (string replace --all --regex '[\x00-\x08\x0b-\x1f\x7f]' '' <$_mlxd_file)
    set -l problem (string match --invert '*built-in model*' <$_mlxd_file.err)
    _mlxd_forget
    if test $code -ne 0
        printf '\n%s\n' $problem >&2
        commandline -f repaint
    else if test $_mlxd_kind = explain
        printf '\n' >&2
        printf '%s\n' $_mlxd_said >&2
        commandline -f repaint
    else
        # The command line can only be changed by a key binding. This query makes the terminal send
        # one.
        printf '\e[5n' >/dev/tty
    end
end

function _mlxd_apply
    set -q _mlxd_said; or return
    # If the user has edited the line since, keep it.
    if test "$(commandline | string collect)" = "$_mlxd_line"
        commandline --replace -- (string match --invert --regex '^\s*```' -- $_mlxd_said | string collect)
    end
    set -e _mlxd_said
    commandline -f repaint
end

function _mlxd_command
    if test -z (string trim -- (commandline | string collect))
        return
    end
    _mlxd_ask command "You answer with one command line for fish, and nothing else." \
        "shell: "(commandline | string collect)
end

function _mlxd_explain
    if test -z (string trim -- (commandline | string collect))
        return
    end
    _mlxd_ask explain 'You explain commands in a few short lines.' \
        "What does this command do? "(commandline | string collect)
end

function _mlxd_fix
    if test "$_mlxd_status" = 0 -o -z "$_mlxd_status"
        return
    end
    _mlxd_ask fix 'You answer with one corrected command line for fish, and nothing else.' \
        "shell: fix this command, which failed with exit status $_mlxd_status: $_mlxd_last"
end

function _mlxd_note --on-event fish_postexec
    set -g _mlxd_status $status
    set -g _mlxd_last $argv[1]
end

# Bind a key, or print a message if it is already in use.
function _mlxd_bind --argument-names key action variable
    test -n "$key"; or return
    set -l taken (bind $key 2>/dev/null)
    if test -n "$taken"; and not string match --quiet "*$action*" -- $taken
        echo "mlxd: a key is already in use. Set another one in $variable." >&2
        return
    end
    bind $key $action
end

if status is-interactive
    bind \e\[0n _mlxd_apply
    set -q MLXD_KEY_COMMAND; or set -l MLXD_KEY_COMMAND \ek
    set -q MLXD_KEY_EXPLAIN; or set -l MLXD_KEY_EXPLAIN \ex
    set -q MLXD_KEY_FIX; or set -l MLXD_KEY_FIX \ej
    _mlxd_bind "$MLXD_KEY_COMMAND" _mlxd_command MLXD_KEY_COMMAND
    _mlxd_bind "$MLXD_KEY_EXPLAIN" _mlxd_explain MLXD_KEY_EXPLAIN
    _mlxd_bind "$MLXD_KEY_FIX" _mlxd_fix MLXD_KEY_FIX
end
