"""What mlxd is measured against; each can be started, asked, and stopped."""
