"""The programs that mlxd is compared with. Each can be started, asked and stopped."""
