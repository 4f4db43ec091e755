/* The limit for a client: connects, sends the bytes of a file, prints what follows the first
   delta, ends with the connection's first byte after it. Usage: client SOCKET REQUEST */
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static char buffer[1 << 16];

int main(int argc, char **argv) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  int connection = socket(AF_UNIX, SOCK_STREAM, 0);
  if (argc != 3 || strlen(argv[1]) >= sizeof address.sun_path) return 2;
  strcpy(address.sun_path, argv[1]);
  int file = open(argv[2], O_RDONLY);
  ssize_t size = read(file, buffer, sizeof buffer);
  if (connect(connection, (struct sockaddr *)&address, sizeof address)) return 3;
  if (write(connection, buffer, size) != size) return 1;
  size_t kept = 0;
  for (;;) {
    ssize_t got = read(connection, buffer + kept, sizeof buffer - kept);
    if (got <= 0) return 1;
    kept += got;
    for (size_t at = 0; at + 6 <= kept; at++)
      if (!memcmp(buffer + at, "\xa5" "delta", 6)) {
        write(1, buffer + at + 6, kept - at - 6);
        return 0;
      }
    if (kept > sizeof buffer / 2) kept = 0;
  }
}
