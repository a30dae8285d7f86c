package install

import (
	"context"
	"fmt"
	"strings"

	"github.com/roundsman-go/roundsman/transport"
)

// aboveScript defines the function above, which prints why another user could put
// something in the place of what is in directory $1 or below, and nothing where only
// root and this user can: a directory above belongs to somebody else, or others may
// write to it. A group counts as others unless it is root's or this user's own. ls -n
// prints the mode first, the owner third and the group fourth (POSIX, ls).
const aboveScript = `above() {
	a=$1
	while :; do
		set -- $(LC_ALL=C ls -ldnL "$a")
		case $1 in
		d???????w[!tT]*) echo "everybody may replace what is in $a"; return;;
		d????w???[!tT]*) case $4 in 0|"$(id -g)") ;; *) echo "group $4 may replace what is in $a"; return;; esac;;
		d*) ;;
		*) echo "$a cannot be looked at"; return;;
		esac
		case $3 in 0|"$(id -u)") ;; *) echo "user $3 may replace what is in $a"; return;; esac
		[ "$a" = / ] && return
		a=${a%/*}
		a=${a:-/}
	done
}
`

// ownedScript prints "ok", or why nothing may be executed from directory $1: it is
// not the user's own, or another user could put another in its place.
const ownedScript = "set -f\n" + aboveScript + `
d=$1
set -- $(LC_ALL=C ls -ldn "$d")
case $1 in
d*) ;;
*) echo "it is not a directory"; exit;;
esac
[ "$3" = "$(id -u)" ] || { echo "it belongs to user $3"; exit; }
d=${d%/*}
why=$(above "${d:-/}")
echo "${why:-ok}"`

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
