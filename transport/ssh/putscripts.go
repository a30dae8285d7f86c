package ssh

// digests is what scripts share that take files over.
const digests = shared + `
# digest: prints the SHA-256 of its input, as hexadecimal, by the tool $H.
digest() {
	case $H in
	openssl) openssl dgst -sha256 -r;;
	sha256sum) sha256sum;;
	shasum) shasum -a 256;;
	sha256) sha256 -q;;
	digest) command digest -a sha256;;
	busybox) busybox sha256sum;;
	esac | { read -r a b && echo "$a"; }
}
# The SHA-256 of nothing.
none=e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
# tool NAME...: sets H to the first tool that works, or to nothing.
tool() {
	for H; do
		command -v "$H" >/dev/null 2>&1 || continue
		[ "$(digest </dev/null 2>/dev/null)" = "$none" ] && return
	done
	H=
}
# hash PATH: prints the SHA-256 of a file. With many bytes it pays to look for a
# tool that uses what the processor has for it.
hash() {
	if [ -z "${H+x}" ]; then
		if [ "$n" -gt 4194304 ]; then tool openssl sha256sum shasum sha256 digest busybox
		else tool sha256sum openssl shasum sha256 digest busybox
		fi
	fi
	[ -n "$H" ] || return 77
	digest <"$1" || return 80
}
# own PATH: whether this is a plain file of our own. Nothing else is written to, and
# not everything else is refused by noclobber.
own() { [ -f "$1" ] && ! [ -L "$1" ] && [ -O "$1" ]; }
# lack KIB: the exit status for a write to $p that failed with KIB to go.
lack() {
	(
	[ -w "$d" ] || exit 72
	reads "$d"
	full "$d" "$1"
	# df shows room, but a quota may leave none.
	rm -f "$p.x"
	(umask 077; set -C; : >"$p.x") 2>/dev/null && own "$p.x" && echo x 2>/dev/null >"$p.x"; r=$?
	rm -f "$p.x"
	[ $r = 0 ] || exit 81
	exit 80
	)
}
`

// putBegin FILE PARTIAL SIZE SHA256 DIR MODE looks at what is there. It says
// "done" on a line of its own, followed by a record, if FILE has the content
// already; or it leaves a partial file, of $s bytes.
const putBegin = digests + `
f=$1 p=$2 n=$3 h=$4 d=$5 m=$6
[ -d "$d" ] || { [ -e "$d" ] && exit 71; why "$d"; }
[ -d "$f" ] && exit 73
# Others could change their own file later, so it is replaced, as a link is.
ready() {
	own "$f" && [ -r "$f" ] && [ "$(size "$f")" = "$n" ] && [ "$(hash "$f")" = "$h" ] && chmod "$m" "$f"
}
if ready 2>/dev/null; then rm -f "$p"; echo done; rec "$f" x; exit 0; fi
s=0
if [ -e "$p" ] || [ -L "$p" ]; then
	# Nothing but a plain file of our own is continued: others could change it later.
	if own "$p" && [ -w "$p" ] && s=$(size "$p") && [ "$s" -le "$n" ]; then :
	else rm -f "$p" || exit 72; s=0
	fi
fi
if ! [ -e "$p" ]; then
	(umask 077; set -C; : >"$p") || {
		[ -w "$d" ] && [ -x "$d" ] || exit 72
		reads "$d"
		full "$d" 4
		exit 80
	}
	# It may have another owner, where the file system decides that.
	[ -f "$p" ] && ! [ -L "$p" ] || exit 72
fi
`

// putStream says "at OFFSET" on a line of its own, takes the bytes from there on
// and checks all. Writing at an offset, and not at the end, keeps a predecessor
// harmless whose line broke but who still has some of the same bytes to write.
const putStream = `
k=$((s/65536))
echo "at $((k*65536))"
LC_ALL=C dd of="$p" bs=65536 seek="$k" conv=notrunc || {
	full "$d" "$(((n-k*65536)/1024+4))"
	s=$(size "$p")
	lack "$(((n-s)/1024+4))"
	exit
}
s=$(size "$p")
[ "$s" = "$n" ] || exit 76
x=$(hash "$p")
r=$?
if [ $r != 0 ]; then
	ready && { echo done; rec "$f" x; exit 0; }
	exit $r
fi
[ "$x" = "$h" ] || { rm -f "$p"; exit 75; }
`

// putEnd puts the partial file in the place of FILE and prints a record.
const putEnd = `
chmod "$m" "$p" || exit 72
[ -d "$f" ] && exit 73
# Or the name might be there after a loss of power, and the bytes not.
dd if=/dev/null of="$p" conv=notrunc,fsync 2>/dev/null
mv -f "$p" "$f" || exit 72
rec "$f" x
`

// putScript FILE PARTIAL SIZE SHA256 DIR MODE takes over a file in one stream.
const putScript = putBegin + putStream + putEnd

// finishScript FILE PARTIAL MODE is the end of putScript, for targets without a
// tool for SHA-256, whose file was read back.
const finishScript = shared + `
f=$1 p=$2 m=$3
` + putEnd

// laneFunc takes pieces of the file from its input. A command is a line of three
// words: "w K C" is followed by C blocks of 64 KiB for block K of the file, "t K
// C" by C bytes for block K, at its end. Each is acknowledged by "w K", a write
// that failed by "f STATUS". "h K C" prints "K C", and "e" is the end.
const laneFunc = `
lane() {
	while read -r o k c; do
		case $o in
		w) e=$(LC_ALL=C dd of="$p" bs=65536 seek="$k" count="$c" iflag=fullblock conv=notrunc 2>&1 3>&-);;
		t) e=$(LC_ALL=C dd of="$p" ibs="$c" count=1 obs=65536 seek="$k" iflag=fullblock conv=notrunc 2>&1 3>&-);;
		h) echo "$k $c"; continue;;
		*) return;;
		esac || {
			printf '%s\n' "$e" >&2
			s=$(size "$p")
			lack "$(((n-s)/1024+4))"
			echo "f $?" >&3
			return
		}
		echo "w $k" >&3
	done
}
`

// follow PYTHON PATH prints the SHA-256 of a file that grows: for each line "K C"
// of its input it reads C blocks of 64 KiB from block K on. With dd and a pipe this
// takes twice the time of the processor. A buffer that fits into its cache matters.
const follow = `
follow() {
	"$1" -I -S -c 'import sys, hashlib
h = hashlib.sha256()
f = open(sys.argv[1], "rb", 0)
b = memoryview(bytearray(65536))
for l in sys.stdin:
    k, c = l.split()
    f.seek(int(k) * 65536)
    for i in range(int(c)):
        n, m = 0, 1
        while n < 65536 and m:
            m = f.readinto(b[n:])
            n += m
        h.update(b[:n])
print(h.hexdigest())' "$2"
}
`

// piecesScript FILE PARTIAL SIZE SHA256 DIR MODE BLOCK TAIL is putScript for a
// large file. Where the tools are there, it takes the file in pieces, which may
// come in any order and by another connection too, and reads them back for the
// digest while others come. It says "pieces S", S being the size of the partial
// file; then "b K DIGEST" for each whole block of BLOCK bytes in its last TAIL
// bytes, where pieces may be missing; then "go". After the commands for the lane it
// says "x DIGEST" and waits for "finish" or "remove".
const piecesScript = putBegin + laneFunc + follow + `
tool openssl sha256sum shasum sha256 digest busybox
if [ -n "$H" ] && dd if=/dev/null of=/dev/null iflag=fullblock 2>/dev/null; then
	echo "pieces $s"
	k=$(((s-$8)/$7))
	[ "$k" -gt 0 ] || k=0
	while [ $(((k+1)*$7)) -le "$s" ]; do
		echo "b $k $(dd if="$p" bs="$7" skip="$k" count=1 2>/dev/null | digest)"
		k=$((k+1))
	done
	echo go
	exec 3>&1
	for y in python3 /usr/libexec/platform-python python ''; do
		[ "$(follow "$y" /dev/null </dev/null 2>/dev/null)" = "$none" ] && break
	done
	# Without a follower the file is read when it is complete.
	if [ -n "$y" ]; then x=$(lane | follow "$y" "$p")
	else lane >/dev/null; x=$(digest <"$p")
	fi
	echo "x $x"
	read -r o
	case $o in
	finish) ;;
	remove) rm -f "$p"; exit 75;;
	*) exit 76;;
	esac
else
` + putStream + `
fi
` + putEnd

// laneScript PARTIAL SIZE DIR is a second lane to the same partial file.
const laneScript = digests + laneFunc + `
p=$1 n=$2 d=$3
own "$p" && [ -w "$p" ] || exit 72
exec 3>&1
lane
`
