# mlxd for zsh:  eval "$(mlx shell-init zsh)"
#
#   Ctrl-X k   the words on the line become a command (which is never run)
#   Ctrl-X x   what the command on the line does
#   Ctrl-X f   a better one for the command that has just failed
#
# The same key again, or Ctrl-G, stops it. Other keys: set MLXD_KEY_COMMAND, MLXD_KEY_EXPLAIN and
# MLXD_KEY_FIX before this ("" for none). A model: MLXD_MODEL. The line editor never waits: zsh
# speaks to the daemon's socket itself, and reads when something has come.

zmodload zsh/net/socket zsh/system zsh/zselect || return
autoload -Uz add-zsh-hook add-zle-hook-widget

typeset -g _mlxd_fd= _mlxd_clock= _mlxd_kind= _mlxd_line= _mlxd_text= _mlxd_pending= _mlxd_request=
typeset -g _mlxd_status=0 _mlxd_last=

# The daemon's socket into REPLY. On macOS no XDG variable counts. A relative path is said to the
# person, and fails.
_mlxd_socket() {
  local from=MLXD_STATE_DIR what=folder home=${HOME:-~$USERNAME}
  if [[ -n $MLXD_SOCKET ]]; then
    from=MLXD_SOCKET what=socket REPLY=$MLXD_SOCKET
  elif [[ $OSTYPE != darwin* && $XDG_RUNTIME_DIR == /* ]]; then REPLY=$XDG_RUNTIME_DIR/mlxd/mlxd.sock
  elif [[ -n $MLXD_STATE_DIR ]]; then REPLY=$MLXD_STATE_DIR/mlxd.sock
  elif [[ $OSTYPE == darwin* ]]; then REPLY=$home/Library/Application\ Support/mlxd/mlxd.sock
  elif [[ $XDG_STATE_HOME == /* ]]; then REPLY=$XDG_STATE_HOME/mlxd/mlxd.sock
  else REPLY=$home/.local/state/mlxd/mlxd.sock
  fi
  [[ $REPLY != /* ]] || return 0
  _mlxd_say "mlxd: $from must be an absolute path, not \"${(P)from}\".
      Set it to the whole path of the $what, or unset it."
  return 1
}

# A JSON string of a text, into REPLY.
_mlxd_json() {
  emulate -L zsh
  local text=$1
  text=${text//\\/\\\\}
  text=${text//\"/\\\"}
  text=${text//$'\n'/\\n}
  text=${text//$'\t'/\\t}
  REPLY="\"${text//[[:cntrl:]]/ }\""
}

# The string that a member of a JSON object has, into REPLY. No regular expression: the C library
# allocates memory for one, and zsh does not keep signals off that.
_mlxd_member() {
  emulate -L zsh
  local rest=${1#*\"$2\":} backslash=$'\x01' quote=$'\x02'
  REPLY=
  [[ $rest != "$1" && ${rest## } == \"* ]] || return 1
  rest=${${rest## }#\"}
  rest=${rest//\\\\/$backslash}
  rest=${rest//\\\"/$quote}
  rest=${${rest%%\"*}//\\\//\/}
  REPLY=${${${(g::)rest}//$backslash/\\}//$quote/\"}
}

# Ctrl-C may break this off anywhere; the next line begins with it again, so it can be done twice.
_mlxd_close() {
  if [[ -n $_mlxd_fd ]]; then
    zle -F $_mlxd_fd 2>/dev/null
    { exec {_mlxd_fd}>&- } 2>/dev/null
    _mlxd_fd=
  fi
  _mlxd_pending= POSTDISPLAY=
  if [[ -n $_mlxd_clock ]]; then
    { exec {_mlxd_clock}>&- } 2>/dev/null
    _mlxd_clock=
  fi
}

# A Ctrl-C that comes while a handler of `zle -F` runs (or a moment before) breaks it off, but the
# line editor sees it only when its wait for a key is next disturbed: until then it would neither
# give a fresh line nor read an answer. So a child disturbs that wait ten times a second, with a
# signal that means nothing, while an answer comes and for a second after.
_mlxd_start_clock() {
  setopt local_options no_monitor no_bg_nice
  local ready
  exec {_mlxd_clock}< <(_mlxd_tick)
  # Until it ignores Ctrl-C it would die of one, so it is waited for (a millisecond or two).
  sysread -i $_mlxd_clock -s 1 ready
}

_mlxd_tick() {
  local left=10
  trap '' INT PIPE
  # The daemon sees that this shell has closed its connection only when nobody else has it open.
  { exec {_mlxd_fd}>&- } 2>/dev/null
  while (( left )); do
    # Nobody reads these bytes, but they cannot be written once the shell has closed its end.
    syswrite . 2>/dev/null || (( left-- ))
    zselect -t 10
    kill -CHLD $$ 2>/dev/null || return
  done
}

_mlxd_say() { zle -M -- "$1" }

_mlxd_stop() {
  [[ -n $_mlxd_fd ]] || return 0
  _mlxd_close
  _mlxd_say 'mlxd: stopped'
}
zle -N _mlxd_stop

# Begin: kind, system prompt, question.
_mlxd_ask() {
  local system question model=
  _mlxd_json "$2"; system=$REPLY
  _mlxd_json "$3"; question=$REPLY
  if [[ -n $MLXD_MODEL ]]; then _mlxd_json "$MLXD_MODEL"; model="\"model\":$REPLY,"; fi
  _mlxd_request='{"jsonrpc":"2.0","id":1,"method":"chat","params":{'$model'"messages":[{"role":"system","content":'$system'},{"role":"user","content":'$question'}],"temperature":0,"max_tokens":300,"stream":true,"log":false,"supersede":"zsh-'$$'"}}'
  _mlxd_kind=$1 _mlxd_line=$BUFFER _mlxd_text=
  local REPLY
  _mlxd_socket || return
  _mlxd_connect || _mlxd_start
  [[ -z $_mlxd_fd ]] || _mlxd_start_clock
}

_mlxd_connect() {
  local REPLY free=20
  _mlxd_socket || return
  while [[ -e /dev/fd/$free ]]; do (( free++ )); done
  # The number is noted before there is a file, so that Ctrl-C cannot come between the two.
  _mlxd_fd=$free
  zsocket -d $_mlxd_fd "$REPLY" 2>/dev/null || { _mlxd_fd=; return 1 }
  syswrite -o $_mlxd_fd -- "$_mlxd_request"$'\n' 2>/dev/null || { _mlxd_close; return 1 }
  zle -F -w $_mlxd_fd _mlxd_read
}

# No daemon: start one, without waiting for it here.
_mlxd_start() {
  if [[ $MLXD_AUTOSTART == 0 ]] || ! (( $+commands[mlxd] )); then
    _mlxd_say 'mlxd: no daemon runs. Start it: mlxd start'
    return
  fi
  _mlxd_say 'mlxd: starting …'
  exec {_mlxd_fd}< <(mlxd start 2>&1)
  zle -F -w $_mlxd_fd _mlxd_started
}

_mlxd_started() {
  local said chunk
  while sysread -i $1 chunk; do said+=$chunk; done
  _mlxd_close
  _mlxd_say ''
  _mlxd_connect || _mlxd_say "mlxd: ${said:-could not be started: mlxd run}"
  zle -R
}
zle -N _mlxd_started

_mlxd_read() {
  local chunk
  if ! sysread -i $1 chunk; then
    _mlxd_close
    _mlxd_say 'mlxd: the daemon went away. See: mlxd logs'
    zle -R
    return
  fi
  _mlxd_pending+=$chunk
  while [[ -n $_mlxd_fd && $_mlxd_pending == *$'\n'* ]]; do
    chunk=${_mlxd_pending%%$'\n'*}
    _mlxd_pending=${_mlxd_pending#*$'\n'}
    _mlxd_take "$chunk"
  done
  zle -R
}
zle -N _mlxd_read

_mlxd_take() {
  local REPLY
  if [[ $1 == *'"method":"event"'* ]]; then
    [[ $1 == *'"type":"delta"'* && $1 == *'"channel":"answer"'* ]] || return
    _mlxd_member "$1" text || return
    # A model's output must not steer the terminal.
    _mlxd_text+=${REPLY//[^[:print:]$'\n'$'\t']/}
    POSTDISPLAY=$'\n'"$_mlxd_text"
    return
  fi
  _mlxd_close
  if [[ $1 == *'"error":{'* ]]; then
    local message
    _mlxd_member "$1" message && message=$REPLY
    _mlxd_member "$1" hint
    _mlxd_say "mlxd: $message
      $REPLY"
  elif [[ $_mlxd_kind == explain ]]; then
    _mlxd_say "$_mlxd_text"
  else
    # What the person has typed since goes before what a model says.
    if [[ $BUFFER == "$_mlxd_line" ]]; then
      _mlxd_bare "$_mlxd_text"
      BUFFER=$REPLY CURSOR=${#REPLY}
    fi
  fi
}

# A command without the fence that models like to put around it, into REPLY.
_mlxd_bare() {
  emulate -L zsh
  setopt extended_glob
  local -a kept
  local one
  for one in "${(@f)1}"; do [[ $one == [[:space:]]#\`\`\`* ]] || kept+=("$one"); done
  REPLY=${(F)kept}
  REPLY=${REPLY##[[:space:]]##}
  REPLY=${REPLY%%[[:space:]]##}
}

_mlxd_command() {
  if [[ -n $_mlxd_fd ]]; then _mlxd_stop; return; fi
  [[ -n ${BUFFER//[[:space:]]/} ]] || { _mlxd_say 'mlxd: write first what you want to do'; return }
  _mlxd_ask command "You answer with one command line for zsh on ${OSTYPE%%[0-9.]*}, and nothing else." "shell: $BUFFER"
}
zle -N _mlxd_command

_mlxd_explain() {
  if [[ -n $_mlxd_fd ]]; then _mlxd_stop; return; fi
  [[ -n ${BUFFER//[[:space:]]/} ]] || { _mlxd_say 'mlxd: write first the command to explain'; return }
  _mlxd_ask explain 'You explain commands in a few short lines.' "What does this command do? $BUFFER"
}
zle -N _mlxd_explain

_mlxd_fix() {
  if [[ -n $_mlxd_fd ]]; then _mlxd_stop; return; fi
  (( _mlxd_status )) || { _mlxd_say 'mlxd: the last command has not failed'; return }
  _mlxd_ask fix 'You answer with one corrected command line for zsh, and nothing else.' \
    "shell: fix this command, which failed with exit status $_mlxd_status: $_mlxd_last"
}
zle -N _mlxd_fix

_mlxd_note_command() { _mlxd_last=$1 }
# First of the hooks: another one's commands would change the status.
_mlxd_note_status() { local code=$?; [[ -z $_mlxd_last ]] || _mlxd_status=$code }
add-zsh-hook preexec _mlxd_note_command
precmd_functions=(_mlxd_note_status ${precmd_functions:#_mlxd_note_status})
add-zle-hook-widget line-finish _mlxd_close
add-zle-hook-widget line-init _mlxd_close

# Bind a key that nobody has; say so where somebody has it.
_mlxd_bind() {
  [[ -n $1 ]] || return 0
  if [[ $(bindkey -- "$1") != *undefined-key && $(bindkey -- "$1") != *" $2" ]]; then
    print -u2 "mlxd: the key $1 is taken; set $3 to another one."
    return 0
  fi
  bindkey -- "$1" $2
}
_mlxd_bind "${MLXD_KEY_COMMAND-^Xk}" _mlxd_command MLXD_KEY_COMMAND
_mlxd_bind "${MLXD_KEY_EXPLAIN-^Xx}" _mlxd_explain MLXD_KEY_EXPLAIN
_mlxd_bind "${MLXD_KEY_FIX-^Xf}" _mlxd_fix MLXD_KEY_FIX
