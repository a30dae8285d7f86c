package install

import (
	"context"
	"fmt"
	"strings"

	"github.com/roundsman-go/roundsman/transport"
)

// ownedScript prints "ok", or why nothing may be executed from directory $1: it
// is not the user's own, or everybody could put another in its place. ls -n
// prints the mode first and the numeric owner third (POSIX, ls).
const ownedScript = `set -f
d=$1
set -- $(LC_ALL=C ls -ldn "$d")
case $1 in
d*) ;;
*) echo "it is not a directory"; exit;;
esac
[ "$3" = "$(id -u)" ] || { echo "it belongs to user $3"; exit; }
while [ "$d" != / ]; do
	d=${d%/*}
	d=${d:-/}
	set -- $(LC_ALL=C ls -ldnL "$d")
	case $1 in
	d???????w[!tT]*) echo "everybody may replace what is in $d"; exit;;
	d*) ;;
	*) echo "$d cannot be looked at"; exit;;
	esac
done
echo ok`

// owned refuses a directory that a program of ours must not be executed from,
// because another user could exchange the program before it runs.
func owned(ctx context.Context, conn transport.Conn, dir string) error {
	out, exit, err := output(ctx, conn, "/bin/sh", "-c", ownedScript, "sh", dir)
	if err != nil {
		return err
	}
	if s := strings.TrimSpace(string(out)); s != "ok" || exit.Code != 0 {
		return fmt.Errorf("it is not safe to execute programs from %s: %.300s", dir, s)
	}
	return nil
}
