"""Workers that Ray starts and watches; nothing else imports Ray."""
