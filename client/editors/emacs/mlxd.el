;;; mlxd.el --- Ask local language models that mlxd keeps warm  -*- lexical-binding: t; -*-

;; Version: 0.2.0
;; Package-Requires: ((emacs "27.1"))
;; Keywords: tools, convenience
;; SPDX-License-Identifier: MIT

;;; Commentary:

;; `mlxd-ask' asks about the region or the buffer, `mlxd-replace' replaces the region with the
;; answer, and `mlxd-chat' opens a conversation.  The package sends JSON-RPC lines to the daemon's
;; socket, and starts the daemon if none is running.  Answers are inserted as they arrive, without
;; blocking Emacs.
;;
;;   (add-to-list 'load-path "/path/to/mlxd/client/editors/emacs")
;;   (require 'mlxd)

;;; Code:

(require 'json)
(require 'subr-x)

(defgroup mlxd nil
  "Local language models that mlxd keeps warm."
  :group 'tools)

(defcustom mlxd-socket nil
  "Path of the daemon's socket, or nil for the default path."
  :type '(choice (const nil) file))

(defcustom mlxd-command '("mlxd" "start")
  "Command that starts a daemon if none is running, or nil."
  :type '(repeat string))

(defcustom mlxd-model nil
  "Name of the model, or nil for the daemon's default model."
  :type '(choice (const nil) string))

(defcustom mlxd-system nil
  "System prompt, or nil for none."
  :type '(choice (const nil) string))

(defcustom mlxd-params nil
  "Parameters added to every request, such as ((temperature . 0.2))."
  :type '(alist :key-type symbol))

;;;; Connection

(defvar mlxd--process nil
  "The connection.  Its property `waiting' maps a request id to (DONE . EVENT).
Its property `pending' is the incomplete line received so far.")
(defvar mlxd--last-id 0)

(defun mlxd--waiting (process)
  "Return the callbacks of the requests in flight on PROCESS."
  (process-get process 'waiting))

(defun mlxd--variable (name)
  "Return the environment variable NAME, or nil if it is unset or empty."
  (let ((value (getenv name)))
    (and value (not (string-empty-p value)) value)))

(defun mlxd--path-in (name what)
  "Return the environment variable NAME, the path of WHAT.
It is nil if the variable is unset or empty."
  (let ((value (mlxd--variable name)))
    (when (and value (not (string-prefix-p "/" value)))
      (user-error "%s must be an absolute path, not \"%s\".  %s" name value
                  (format "Set it to the whole path of the %s, or unset it." what)))
    value))

(defun mlxd-socket-path ()
  "Return the path of the daemon's socket.  macOS ignores XDG variables."
  (let* ((mac (eq system-type 'darwin))
         (xdg (lambda (name)
                (let ((value (unless mac (mlxd--variable name))))
                  (and value (string-prefix-p "/" value) value))))
         (home (or (mlxd--variable "HOME") (expand-file-name (concat "~" (user-login-name)))))
         path)
    (cond (mlxd-socket)
          ((mlxd--path-in "MLXD_SOCKET" "socket"))
          ((setq path (funcall xdg "XDG_RUNTIME_DIR")) (concat path "/mlxd/mlxd.sock"))
          ((setq path (mlxd--path-in "MLXD_STATE_DIR" "folder")) (concat path "/mlxd.sock"))
          (mac (concat home "/Library/Application Support/mlxd/mlxd.sock"))
          (t (concat (or (funcall xdg "XDG_STATE_HOME") (concat home "/.local/state"))
                     "/mlxd/mlxd.sock")))))

(defun mlxd--open ()
  "Return a new connection.  Signals `file-error' if no daemon listens."
  (make-network-process
   :name "mlxd" :family 'local :service (mlxd-socket-path) :coding 'utf-8-unix :noquery t
   :plist (list 'waiting (make-hash-table) 'pending "")
   :filter #'mlxd--filter :sentinel #'mlxd--sentinel))

(defun mlxd--connection ()
  "Return the connection.  Starts a daemon if none is running."
  (unless (process-live-p mlxd--process)
    (setq mlxd--process
          (condition-case nil
              (mlxd--open)
            (file-error
             (mlxd--start)
             (mlxd--open)))))
  mlxd--process)

(defun mlxd--start ()
  "Start a daemon and wait until it accepts connections."
  (when (or (null mlxd-command) (equal (getenv "MLXD_AUTOSTART") "0"))
    (user-error "No daemon is running.  Start it: mlxd start"))
  (let ((program (mlxd--program (car mlxd-command))))
    (unless program
      (user-error "%s is not installed.  Install mlxd, then run in a terminal: mlxd install"
                  (car mlxd-command)))
    (with-temp-buffer
      (unless (zerop (apply #'call-process program nil t nil (cdr mlxd-command)))
        (user-error "%s" (string-trim (buffer-string)))))))

(defun mlxd--program (name)
  "Return the path of the program NAME; nil if it is not found.
An Emacs that was started from the Dock has a PATH without the
folders where uv, pipx and Homebrew install programs."
  (or (executable-find name)
      (let ((exec-path (list (expand-file-name "~/.local/bin")
                             "/opt/homebrew/bin" "/usr/local/bin")))
        (executable-find name))))

(defun mlxd--filter (process text)
  "Handle TEXT from PROCESS.  Each complete line is a message."
  (let ((lines (split-string (concat (process-get process 'pending) text) "\n")))
    (process-put process 'pending (car (last lines)))
    (dolist (line (butlast lines))
      (mlxd--take (mlxd--waiting process)
                  (json-parse-string line :object-type 'alist :null-object nil
                                     :false-object nil)))))

(defun mlxd--take (waiting message)
  "Pass MESSAGE to its callback in WAITING."
  (let-alist message
    (if (equal .method "event")
        (when-let ((event (cdr (gethash .params.id waiting))))
          (funcall event .params))
      (when-let ((done (car (gethash .id waiting))))
        (remhash .id waiting)
        (funcall done .error .result)))))

(defun mlxd--sentinel (process change)
  "End the requests of PROCESS with an error, because of CHANGE."
  (let ((left (hash-table-values (mlxd--waiting process))))
    (clrhash (mlxd--waiting process))
    (dolist (one left)
      (funcall (car one)
               `((message . ,(concat "The daemon went away: " (string-trim change)))
                 (data . ((hint . "Read its log: mlxd logs"))))
               nil))))

(defun mlxd-request (method params done &optional event)
  "Ask METHOD with PARAMS, an alist; returns the request's id.
DONE gets the error and the result, EVENT each event as it comes."
  (let ((id (setq mlxd--last-id (1+ mlxd--last-id)))
        (process (mlxd--connection)))
    (puthash id (cons done event) (mlxd--waiting process))
    (when event (push '(stream . t) params))
    (process-send-string
     process
     (concat (json-serialize `((jsonrpc . "2.0") (id . ,id) (method . ,method)
                               (params . ,(or params (make-hash-table)))))
             "\n"))
    id))

(defun mlxd-cancel (id)
  "Cancel the request ID.  It ends with the error `cancelled'."
  (when (and (process-live-p mlxd--process) (gethash id (mlxd--waiting mlxd--process)))
    (process-send-string
     mlxd--process
     (concat (json-serialize `((jsonrpc . "2.0") (method . "cancel") (params . ((id . ,id)))))
             "\n"))))

;;;; Answers into buffers

(defvar mlxd--answering nil "Ids of the requests that write into buffers.")

(defun mlxd--message (role text)
  "Return TEXT as a message of ROLE."
  `((role . ,role) (content . ,text)))

(defun mlxd--params (messages)
  "Return the parameters of a chat with MESSAGES, a list."
  (append (when mlxd-model `((model . ,mlxd-model)))
          mlxd-params
          `((messages . ,(vconcat (when mlxd-system (list (mlxd--message "system" mlxd-system)))
                                  messages)))))

(defun mlxd--stream (messages write &optional finished)
  "Send MESSAGES.  WRITE receives the answer's text, FINISHED an error or nil."
  (let (id)
    (setq id (mlxd-request
              "chat" (mlxd--params messages)
              (lambda (err _result)
                (setq mlxd--answering (delq id mlxd--answering))
                (force-mode-line-update t)
                (when finished (funcall finished err))
                (when err (mlxd--complain err)))
              (lambda (event)
                (let-alist event
                  (when (and (equal .type "delta") (equal .channel "answer"))
                    (funcall write .text))))))
    (push id mlxd--answering)
    (force-mode-line-update t)
    id))

(defun mlxd--complain (err)
  "Show the message and the hint of ERR."
  (let-alist err
    (unless (equal .data.code "cancelled")
      (message "mlxd: %s  %s" .message (or .data.hint "")))))

(defun mlxd--inserter (marker)
  "Return a function that inserts text at MARKER."
  (set-marker-insertion-type marker t)
  (lambda (text)
    (if (not (buffer-live-p (marker-buffer marker)))
        (mlxd-stop)
      (with-current-buffer (marker-buffer marker)
        (save-excursion
          (goto-char marker)
          (insert text))))))

(defun mlxd--question (prompt text)
  "Return PROMPT about TEXT."
  (if (string-blank-p text)
      prompt
    (let ((fence (if (string-search "```" text) "````" "```")))
      (concat prompt "\n\n" fence "\n" text "\n" fence))))

(defun mlxd--region-or-buffer ()
  "Return the text of the region, or of the buffer."
  (if (use-region-p)
      (buffer-substring-no-properties (region-beginning) (region-end))
    (buffer-substring-no-properties (point-min) (point-max))))

;;;###autoload
(defun mlxd-ask (prompt)
  "Ask PROMPT about the region, or else the whole buffer.
The answer comes into the buffer *mlxd*."
  (interactive "sAsk: ")
  (let ((text (mlxd--region-or-buffer))
        (buffer (get-buffer-create "*mlxd*")))
    (with-current-buffer buffer
      (goto-char (point-max))
      (unless (bobp) (insert "\n\n"))
      (insert "> " prompt "\n\n"))
    (display-buffer buffer)
    (mlxd--stream (list (mlxd--message "user" (mlxd--question prompt text)))
                  (mlxd--inserter (with-current-buffer buffer (point-max-marker))))))

;;;###autoload
(defun mlxd-replace (prompt beginning end)
  "Replace the region from BEGINNING to END as PROMPT says.
The old text goes when the first of the new comes; one undo brings it back."
  (interactive "sReplace: \nr")
  (barf-if-buffer-read-only)
  (let* ((text (buffer-substring-no-properties beginning end))
         (buffer (current-buffer))
         (from (copy-marker beginning))
         (to (copy-marker end))
         (parts nil))
    (mlxd--stream
     (list (mlxd--message "user" (concat (mlxd--question prompt text)
                                         "\n\nAnswer with the new text alone.")))
     (lambda (piece) (push piece parts))
     (lambda (err)
       (when (and (null err) parts (buffer-live-p buffer))
         (with-current-buffer buffer
           (if (not (equal text (buffer-substring-no-properties from to)))
               (message "mlxd: the text changed while the model answered, so it was not replaced")
             (save-excursion
               (goto-char from)
               (delete-region from to)
               (insert (mlxd--bare (apply #'concat (nreverse parts)))))
             (undo-boundary))))))))

(defun mlxd--bare (text)
  "Return TEXT without a Markdown fence around it."
  (if (string-match "\\`[[:space:]]*```[^\n]*\n\\(\\(?:.\\|\n\\)*?\\)\n?```[[:space:]]*\\'" text)
      (match-string 1 text)
    text))

(defun mlxd-stop ()
  "Stop all answers."
  (interactive)
  (mapc #'mlxd-cancel mlxd--answering))

;;;; Chat

(defconst mlxd--you "## You")
(defconst mlxd--model "## Model")

(defvar mlxd-chat-mode-map
  (let ((map (make-sparse-keymap)))
    (define-key map (kbd "C-c C-c") #'mlxd-chat-send)
    (define-key map (kbd "C-c C-k") #'mlxd-stop)
    map))

(define-derived-mode mlxd-chat-mode text-mode "mlxd"
  "A conversation; \\[mlxd-chat-send] sends, \\[mlxd-stop] stops."
  (visual-line-mode 1)
  (setq mode-line-process '(:eval (if mlxd--answering " answering" ""))))

(defun mlxd-chat-messages ()
  "Return the messages of the conversation in the buffer."
  (save-excursion
    (goto-char (point-min))
    (let (found role)
      (while (not (eobp))
        (let ((line (buffer-substring-no-properties (point) (line-end-position))))
          (cond ((equal line mlxd--you) (push (list "user") found) (setq role t))
                ((equal line mlxd--model) (push (list "assistant") found) (setq role t))
                (role (push line (cdr (car found))))))
        (forward-line 1))
      (delq nil
            (mapcar (lambda (one)
                      (let ((text (string-trim (string-join (reverse (cdr one)) "\n"))))
                        (unless (string-empty-p text) (mlxd--message (car one) text))))
                    (nreverse found))))))

(defun mlxd-chat-send ()
  "Send the text below the last heading."
  (interactive)
  (let ((messages (mlxd-chat-messages))
        (buffer (current-buffer)))
    (unless (equal (alist-get 'role (car (last messages))) "user")
      (user-error "Write a prompt first"))
    (goto-char (point-max))
    (insert "\n\n" mlxd--model "\n\n")
    (mlxd--stream messages (mlxd--inserter (point-max-marker))
                  (lambda (_err)
                    (when (buffer-live-p buffer)
                      (with-current-buffer buffer
                        (goto-char (point-max))
                        (insert "\n\n" mlxd--you "\n\n")))))))

;;;###autoload
(defun mlxd-chat ()
  "Open a conversation."
  (interactive)
  (pop-to-buffer (generate-new-buffer "*mlxd chat*"))
  (mlxd-chat-mode)
  (insert mlxd--you "\n\n"))

(provide 'mlxd)
;;; mlxd.el ends here
