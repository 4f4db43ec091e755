# mlxd for bash:  eval "$(mlx shell-init bash)"
#
#   Ctrl-X k   turn the text on the line into a command (never run)
#   Ctrl-X x   explain the command on the line
#   Ctrl-X f   suggest a fix for the command that just failed
#
# Ctrl-C stops an answer. Set MLXD_KEY_COMMAND, MLXD_KEY_EXPLAIN and MLXD_KEY_FIX before this line
# for other keys ("" for none), and MLXD_MODEL for a model. bash has no Unix sockets, and its line
# editor waits for a key's function, so this runs `mlx`, which starts faster than plain Python.
# It needs bash 4.3 or newer. macOS has 3.2: use zsh there.

_mlxd_status=0 _mlxd_last=

_mlxd_ask() { # system prompt, prompt; prints the answer
  mlx ask --plain --no-log --temp 0 --max-tokens 300 ${MLXD_MODEL:+-m "$MLXD_MODEL"} \
    -s "$1" "$2" </dev/tty
}

_mlxd_bare() { # remove Markdown fences and control characters
  local line text=
  while IFS= read -r line; do
    [[ $line == *'```'* ]] || text+=${text:+$'\n'}${line//[[:cntrl:]]/}
  done <<<"$1"
  REPLY=$text
}

_mlxd_replace() {
  local answer REPLY
  if answer=$(_mlxd_ask "$1" "$2") && _mlxd_bare "$answer" && [[ -n $REPLY ]]; then
    READLINE_LINE=$REPLY READLINE_POINT=${#REPLY}
  fi
}

_mlxd_command() {
  if [[ -z ${READLINE_LINE//[[:space:]]/} ]]; then
    echo 'mlxd: type what you want to do first' >&2
    return
  fi
  _mlxd_replace "You answer with one command line for bash on ${OSTYPE%%[0-9.]*}, and nothing else." \
    "shell: $READLINE_LINE"
}

_mlxd_explain() {
  if [[ -z ${READLINE_LINE//[[:space:]]/} ]]; then
    echo 'mlxd: type the command to explain first' >&2
    return
  fi
  _mlxd_ask 'You explain commands in a few short lines.' \
    "What does this command do? $READLINE_LINE" >&2
}

_mlxd_fix() {
  if ((_mlxd_status == 0)); then
    echo 'mlxd: the last command did not fail' >&2
    return
  fi
  _mlxd_replace 'You answer with one corrected command line for bash, and nothing else.' \
    "shell: fix this command, which failed with exit status $_mlxd_status: $_mlxd_last"
}

_mlxd_note() {
  local code=$? line
  line=$(HISTTIMEFORMAT= history 1)
  # An empty line runs no command and keeps the old status.
  if [[ $line != "${_mlxd_seen-}" ]]; then
    _mlxd_status=$code _mlxd_seen=$line _mlxd_last=${line#*[0-9]  }
  fi
  return "$code"
}

# Bind a key, or print a message if it is already in use.
_mlxd_bind() {
  [[ -n $1 ]] || return 0
  if { bind -p; bind -s; bind -X; } 2>/dev/null | grep -v "$2" | grep -qF "\"$1\":"; then
    echo "mlxd: key $1 is already in use. Set another one in $3." >&2
    return 0
  fi
  bind -x "\"$1\": $2"
}

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 403)); then
  # Keys of two characters for `bind -x` came with 4.3, READLINE_LINE with 4.0. macOS has 3.2.
  echo "mlxd: its keys need bash 4.3 or newer, and this is ${BASH_VERSION%%(*}." >&2
  echo "      Use zsh, or install a newer bash: brew install bash" >&2
elif [[ $- == *i* ]]; then
  [[ ";${PROMPT_COMMAND[*]-};" == *_mlxd_note* ]] ||
    PROMPT_COMMAND="_mlxd_note${PROMPT_COMMAND:+;$PROMPT_COMMAND}"
  _mlxd_bind "${MLXD_KEY_COMMAND-\\C-xk}" _mlxd_command MLXD_KEY_COMMAND
  _mlxd_bind "${MLXD_KEY_EXPLAIN-\\C-xx}" _mlxd_explain MLXD_KEY_EXPLAIN
  _mlxd_bind "${MLXD_KEY_FIX-\\C-xf}" _mlxd_fix MLXD_KEY_FIX
fi
