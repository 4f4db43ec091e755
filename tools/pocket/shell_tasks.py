"""Everyday shell tasks: several wordings for one command.

`{f}` is a file, `{d}` a folder, `{w}` a word.
"""

from __future__ import annotations

TASKS: tuple[tuple[str, str], ...] = (
    ("ls", "list files|show the files here|what files are here|list the files in this folder"),
    (
        "ls -lS",
        "list files by size|show files sorted by size|sort files by size|biggest files first",
    ),
    ("ls -lt", "list files by date|show newest files first|sort files by time|list files by time"),
    ("ls -a", "list hidden files|show hidden files|list all files with hidden ones|show dot files"),
    ("ls -lh", "list files with sizes|show readable file sizes|list files with human sizes"),
    ("ls {d}", "list files in {d}|show what is in {d}|what is in the folder {d}"),
    ("pwd", "where am I|show the current folder|print the working directory|which folder is this"),
    ("cd ..", "go up one folder|go to the parent folder|move up a directory|leave this folder"),
    ("cd {d}", "go to {d}|change to the folder {d}|enter {d}|open the folder {d}"),
    ("cd ~", "go home|go to my home folder|change to the home directory"),
    (
        "mkdir {d}",
        "make a folder called {d}|create the folder {d}|new folder {d}|make a directory {d}",
    ),
    ("mkdir -p {d}/{w}", "make the folder {w} inside {d}|create {w} in {d} with parents"),
    ("rmdir {d}", "remove the empty folder {d}|delete the empty directory {d}"),
    ("rm {f}", "delete {f}|remove the file {f}|delete the file {f}|get rid of {f}"),
    (
        "rm -r {d}",
        "delete the folder {d}|remove the directory {d} and all in it|delete {d} with contents",
    ),
    ("cp {f} {d}/", "copy {f} to {d}|put a copy of {f} into {d}|copy the file {f} into {d}"),
    ("cp -r {d} {w}", "copy the folder {d} to {w}|duplicate the folder {d} as {w}"),
    ("mv {f} {d}/", "move {f} to {d}|move the file {f} into {d}|put {f} into {d}"),
    ("mv {f} {w}", "rename {f} to {w}|change the name of {f} to {w}|call {f} {w} instead"),
    ("touch {f}", "create an empty file {f}|make a new file {f}|new empty file {f}"),
    ("cat {f}", "show {f}|print the file {f}|show the content of {f}|display {f}"),
    ("less {f}", "page through {f}|read {f} page by page|view {f} in a pager"),
    ("head {f}", "show the first lines of {f}|show the top of {f}|beginning of {f}"),
    ("tail {f}", "show the last lines of {f}|show the end of {f}|bottom of {f}"),
    ("tail -f {f}", "follow {f}|watch {f} grow|follow the log {f}|keep showing new lines of {f}"),
    ("wc -l {f}", "count lines in {f}|how many lines has {f}|number of lines in {f}"),
    ("wc -w {f}", "count words in {f}|how many words has {f}|number of words in {f}"),
    ("sort {f}", "sort the lines of {f}|sort {f}|show {f} sorted"),
    (
        "sort {f} | uniq",
        "show unique lines of {f}|remove duplicate lines from {f}|sort {f} without duplicates",
    ),
    (
        "grep {w} {f}",
        "find {w} in {f}|search {f} for {w}|lines with {w} in {f}|look for {w} in {f}",
    ),
    (
        "grep -r {w} {d}",
        "find {w} in all files in {d}|search the folder {d} for {w}|grep {w} in {d}",
    ),
    ("grep -c {w} {f}", "count lines with {w} in {f}|how many lines of {f} contain {w}"),
    ("find . -name {f}", "where is {f}|find the file {f}|find a file called {f}|locate {f}"),
    ("find . -name '*.{e}'", "find all {e} files|search for {e} files|find files ending in {e}"),
    ("find . -type d", "find all folders|list all directories below|show every folder below"),
    ("find . -empty", "find empty files|show empty files|which files are empty"),
    (
        "find . -mtime -1",
        "find files changed today|files changed in the last day|recently changed files",
    ),
    ("find . -size +100M", "find big files|find files over 100 megabytes|which files are large"),
    (
        "du -sh {d}",
        "how big is {d}|size of the folder {d}|disk usage of {d}|how much space does {d} take",
    ),
    ("du -sh *", "size of every folder|how big is everything here|show the size of each item"),
    ("df -h", "show free disk space|how much disk is free|disk space|is the disk full"),
    ("free -h", "show free memory|how much memory is free|memory usage|how much ram is used"),
    ("ps aux", "list running processes|show all processes|what is running"),
    ("top", "show processes live|watch the processor load|live process view"),
    ("kill {n}", "stop process {n}|kill process {n}|end the process {n}|terminate process {n}"),
    ("kill -9 {n}", "force kill process {n}|kill {n} by force|kill process {n} at once"),
    ("pkill {w}", "kill all processes named {w}|stop every {w} process|end all {w} processes"),
    ("uptime", "how long has this machine been running|show uptime|how long is the computer up"),
    ("whoami", "who am I|what is my user name|show my user name|which user is this"),
    ("date", "what time is it|show the date|what day is it|print date and time"),
    ("chmod +x {f}", "make {f} executable|allow {f} to run|set the run bit of {f}"),
    ("chmod 600 {f}", "make {f} private|only I may read {f}|protect {f} from others"),
    (
        "tar czf {d}.tar.gz {d}",
        "pack {d} into a tar archive|compress the folder {d}|make a tarball of {d}",
    ),
    ("tar xzf {w}.tar.gz", "unpack {w}.tar.gz|extract the archive {w}.tar.gz|open {w}.tar.gz"),
    ("zip -r {d}.zip {d}", "zip the folder {d}|make a zip of {d}|pack {d} as zip"),
    ("unzip {w}.zip", "unzip {w}.zip|extract {w}.zip|unpack the zip file {w}.zip"),
    ("git status", "show git status|what did I change in git|what is changed in the repository"),
    ("git diff", "show my git changes|git changes line by line|what are the differences in git"),
    ("git log --oneline", "show the git history|list commits|short list of commits"),
    ("git add {f}", "stage {f}|add {f} to git|add {f} to the next commit"),
    ("git commit -m {w}", "commit with the message {w}|make a commit called {w}"),
    ("git checkout -b {w}", "make a branch called {w}|create the git branch {w}|new branch {w}"),
    ("git pull", "get the latest changes from git|update from the remote|pull the newest commits"),
    ("git push", "send my commits|upload commits|push to the remote"),
    (
        "diff {f} {g}",
        "compare {f} and {g}|difference between {f} and {g}|how do {f} and {g} differ",
    ),
    ("history", "show my last commands|command history|what did I type before"),
    ("clear", "clear the screen|clean the terminal|empty the terminal"),
    ("python3 {f}", "run {f} with python|execute the python script {f}|start {f} in python"),
    ("man {w}", "show the manual of {w}|manual page for {w}|help for the command {w}"),
    ("which {w}", "where is the program {w}|which {w} is used|path of the command {w}"),
    ("env", "show environment variables|list the environment|print all variables"),
    ("ping -c 3 {w}", "ping {w} three times|is {w} reachable|test the connection to {w}"),
)
HELD_OUT_WORDING = -1
"""The last wording of a task with three or more may be held out. It is combined with prefixes that
the training never uses."""
