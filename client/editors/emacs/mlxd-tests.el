;;; mlxd-tests.el --- Tests against the daemon at MLXD_SOCKET  -*- lexical-binding: t; -*-

;;; Commentary:

;; emacs -Q --batch -L . -l mlxd-tests.el -f ert-run-tests-batch-and-exit

;;; Code:

(require 'ert)
(require 'mlxd)

(defconst mlxd-tests-wait 30)
(setq mlxd-params '((temperature . 0)))

(defun mlxd-tests-until (done)
  "Let Emacs work until DONE returns non-nil."
  (let ((limit (time-add nil mlxd-tests-wait)))
    (while (not (funcall done))
      (when (time-less-p limit nil) (ert-fail "it never happened"))
      (accept-process-output nil 0.05))))

(defun mlxd-tests-idle ()
  "Wait until nothing is being answered."
  (mlxd-tests-until (lambda () (null mlxd--answering))))

(ert-deftest mlxd-asks-about-the-region ()
  (with-temp-buffer
    (insert "Count from 3 to 7.")
    (when (get-buffer "*mlxd*") (kill-buffer "*mlxd*"))
    (goto-char (point-min))
    (let ((sent nil))
      (advice-add 'mlxd-request :before (lambda (_m params &rest _) (setq sent params))
                  '((name . spy)))
      (set-mark (point-min))
      (goto-char (+ 5 (point-min)))
      (let ((transient-mark-mode t)) (activate-mark) (mlxd-ask "Repeat after me: the red fox"))
      (advice-remove 'mlxd-request 'spy)
      (should (string-search "```\nCount\n```"
                             (alist-get 'content (aref (alist-get 'messages sent) 0))))))
  (mlxd-tests-idle)
  (with-current-buffer "*mlxd*" (should (> (buffer-size) 40))))

(ert-deftest mlxd-streams-an-answer ()
  (with-temp-buffer
    (when (get-buffer "*mlxd*") (kill-buffer "*mlxd*"))
    (mlxd-ask "Count from 3 to 7."))
  (mlxd-tests-idle)
  (with-current-buffer "*mlxd*"
    (should (string-suffix-p "3, 4, 5, 6, 7" (buffer-string)))
    (buffer-enable-undo)))

(ert-deftest mlxd-replaces-and-undoes-in-one-step ()
  (with-temp-buffer
    (buffer-enable-undo)
    (insert "old text")
    (undo-boundary)
    (mlxd-replace "hello" (point-min) (point-max))
    (mlxd-tests-idle)
    (should-not (equal (buffer-string) "old text"))
    (undo-boundary)
    (primitive-undo 1 (progn (while (null (car buffer-undo-list)) (pop buffer-undo-list))
                             buffer-undo-list))
    (should (equal (buffer-string) "old text"))))

(ert-deftest mlxd-leaves-changed-text-alone ()
  (with-temp-buffer
    (insert "old text")
    (mlxd-replace "Count from 0 to 60." (point-min) (point-max))
    (goto-char (point-min))
    (insert "very ")
    (goto-char 8)
    (insert "er")
    (mlxd-tests-idle)
    (should (equal (buffer-string) "very olerd text"))))

(ert-deftest mlxd-chat-remembers ()
  (mlxd-chat)
  (insert "My name is Ada.")
  (mlxd-chat-send)
  (mlxd-tests-idle)
  (should (string-search "Ada!" (buffer-string)))
  (insert "What is my name?")
  (mlxd-chat-send)
  (mlxd-tests-idle)
  (should (string-search "Your name is Ada." (buffer-string)))
  (should-error (mlxd-chat-send) :type 'user-error)
  (kill-buffer))

(ert-deftest mlxd-stop-stops-the-work ()
  (with-temp-buffer
    (let ((mlxd-params '((temperature . 0) (ignore_eos . t) (max_tokens . 9000))))
      (mlxd-ask "Count from 0 to 99."))
    (mlxd-tests-until
     (lambda () (with-current-buffer "*mlxd*" (string-search "0, 1, 2" (buffer-string)))))
    (mlxd-stop)
    (mlxd-tests-idle))
  (let (running)
    (mlxd-tests-until
     (lambda ()
       (mlxd-request "status" nil
                     (lambda (_e result)
                       (setq running (alist-get 'running (alist-get 'requests result)))))
       (accept-process-output mlxd--process 1)
       (equal running 0)))))

(ert-deftest mlxd-says-what-went-wrong-and-the-next-step ()
  (let ((mlxd-model "no-such") (said nil))
    (cl-letf (((symbol-function 'message) (lambda (&rest args) (setq said (apply #'format args)))))
      (with-temp-buffer (mlxd-ask "hello"))
      (mlxd-tests-idle))
    (should (string-search "mlx models" said))))

(ert-deftest mlxd-without-a-daemon-says-how-to-start-one ()
  (let ((mlxd-socket "/tmp/no-such/mlxd.sock") (mlxd-command nil) (mlxd--process nil))
    (should-error (with-temp-buffer (mlxd-ask "hello")) :type 'user-error)))

(ert-deftest mlxd-starts-a-daemon-where-none-runs ()
  (let* ((folder (make-temp-file "mlxd" t))
         (mlxd--process nil)
         (process-environment (append (list (concat "MLXD_SOCKET=" folder "/s")
                                            (concat "MLXD_STATE_DIR=" folder)
                                            (concat "MLXD_LOG_DIR=" folder))
                                      process-environment)))
    (let (pong)
      (mlxd-request "ping" nil (lambda (_e result) (setq pong result)))
      (mlxd-tests-until (lambda () pong)))
    (should (zerop (call-process "mlxd" nil nil nil "stop")))))

(ert-deftest mlxd-takes-fences-away ()
  (should (equal (mlxd--bare "```c\nint x;\n```\n") "int x;"))
  (should (equal (mlxd--bare "plain") "plain")))

(provide 'mlxd-tests)
;;; mlxd-tests.el ends here
