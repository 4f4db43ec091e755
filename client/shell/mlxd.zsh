# mlxd for zsh:  eval "$(mlx shell-init zsh)"
#
#   Ctrl-X k   turn the text on the line into a command (never run)
#   Ctrl-X x   explain the command on the line
#   Ctrl-X f   suggest a fix for the command that just failed
#
# The same key again, or Ctrl-G, stops an answer. Set MLXD_KEY_COMMAND, MLXD_KEY_EXPLAIN and
# MLXD_KEY_FIX before this line for other keys ("" for none), and MLXD_MODEL for a model. The line
# editor never waits: zsh connects to the daemon's socket itself, and reads when data has arrived.

zmodload zsh/net/socket zsh/system zsh/zselect || return
autoload -Uz add-zsh-hook add-zle-hook-widget

typeset -g _mlxd_fd= _mlxd_clock= _mlxd_kind= _mlxd_line= _mlxd_text= _mlxd_pending= _mlxd_request=
typeset -g _mlxd_status=0 _mlxd_last=

# Set REPLY to the path of the daemon's socket. macOS ignores XDG variables. A relative path is an
# error.
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

# Set REPLY to a text as a JSON string.
_mlxd_json() {
  emulate -L zsh
  local text=$1
  text=${text//\\/\\\\}
  text=${text//\"/\\\"}
  text=${text//$'\n'/\\n}
  text=${text//$'\t'/\\t}
  REPLY="\"${text//[[:cntrl:]]/ }\""
}

# Set REPLY to the string value of a member of a JSON object. Uses no regular expression: the C
# library allocates memory for one, and zsh does not block signals meanwhile.
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

# Ctrl-C may interrupt this at any point. The next line calls it again, so it is idempotent.
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

# A Ctrl-C during (or just before) a handler of `zle -F` interrupts it, but the line editor notices
# only when its wait for a key is interrupted. Until then it would show no new prompt and read no
# answer. A child process therefore interrupts that wait ten times a second with a harmless signal,
# while an answer arrives and for a second after.
_mlxd_start_clock() {
  setopt local_options no_monitor no_bg_nice
  local ready
  exec {_mlxd_clock}< <(_mlxd_tick)
  # Wait (a millisecond or two) until the child ignores Ctrl-C, which would otherwise kill it.
  sysread -i $_mlxd_clock -s 1 ready
}

_mlxd_tick() {
  local left=10
  trap '' INT PIPE
  # The daemon sees that this shell closed its connection only if no child has it open.
  { exec {_mlxd_fd}>&- } 2>/dev/null
  while (( left )); do
    # Nothing reads these bytes. Writing fails once the shell has closed its end.
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

# Send a request: kind, system prompt, prompt.
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
  # Set the number before the file is opened, so that Ctrl-C cannot come between the two.
  _mlxd_fd=$free
  zsocket -d $_mlxd_fd "$REPLY" 2>/dev/null || { _mlxd_fd=; return 1 }
  syswrite -o $_mlxd_fd -- "$_mlxd_request"$'\n' 2>/dev/null || { _mlxd_close; return 1 }
  zle -F -w $_mlxd_fd _mlxd_read
}

# There is no daemon: start one, without waiting here.
_mlxd_start() {
  if [[ $MLXD_AUTOSTART == 0 ]] || ! (( $+commands[mlxd] )); then
    _mlxd_say 'mlxd: No daemon is running. Start it: mlxd start'
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
  _mlxd_connect || _mlxd_say "mlxd: ${said:-The daemon could not be started. See why: mlxd run}"
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
    # Remove control characters, which could affect the terminal.
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
    # If the user has edited the line since, keep it.
    if [[ $BUFFER == "$_mlxd_line" ]]; then
      _mlxd_bare "$_mlxd_text"
      BUFFER=$REPLY CURSOR=${#REPLY}
    fi
  fi
}

# Set REPLY to a command without a Markdown fence around it.
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
  [[ -n ${BUFFER//[[:space:]]/} ]] || { _mlxd_say 'mlxd: type what you want to do first'; return }
  _mlxd_ask command "You answer with one command line for zsh on ${OSTYPE%%[0-9.]*}, and nothing else." "shell: $BUFFER"
}
zle -N _mlxd_command

_mlxd_explain() {
  if [[ -n $_mlxd_fd ]]; then _mlxd_stop; return; fi
  [[ -n ${BUFFER//[[:space:]]/} ]] || { _mlxd_say 'mlxd: type the command to explain first'; return }
  _mlxd_ask explain 'You explain commands in a few short lines.' "What does this command do? $BUFFER"
}
zle -N _mlxd_explain

_mlxd_fix() {
  if [[ -n $_mlxd_fd ]]; then _mlxd_stop; return; fi
  (( _mlxd_status )) || { _mlxd_say 'mlxd: the last command did not fail'; return }
  _mlxd_ask fix 'You answer with one corrected command line for zsh, and nothing else.' \
    "shell: fix this command, which failed with exit status $_mlxd_status: $_mlxd_last"
}
zle -N _mlxd_fix

_mlxd_note_command() { _mlxd_last=$1 }
# The first hook, because commands of other hooks would change the status.
_mlxd_note_status() { local code=$?; [[ -z $_mlxd_last ]] || _mlxd_status=$code }
add-zsh-hook preexec _mlxd_note_command
precmd_functions=(_mlxd_note_status ${precmd_functions:#_mlxd_note_status})
add-zle-hook-widget line-finish _mlxd_close
add-zle-hook-widget line-init _mlxd_close

# Bind a key, or print a message if it is already in use.
_mlxd_bind() {
  [[ -n $1 ]] || return 0
  if [[ $(bindkey -- "$1") != *undefined-key && $(bindkey -- "$1") != *" $2" ]]; then
    print -u2 "mlxd: key $1 is already in use. Set another one in $3."
    return 0
  fi
  bindkey -- "$1" $2
}
_mlxd_bind "${MLXD_KEY_COMMAND-^Xk}" _mlxd_command MLXD_KEY_COMMAND
_mlxd_bind "${MLXD_KEY_EXPLAIN-^Xx}" _mlxd_explain MLXD_KEY_EXPLAIN
_mlxd_bind "${MLXD_KEY_FIX-^Xf}" _mlxd_fix MLXD_KEY_FIX
