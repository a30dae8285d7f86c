package agentless

// roomFunctions keep the result of a job where the disk is full when it ends: the
// room for it is taken before the program starts, by files that are then overwritten
// in place and renamed. Package agent does the same, and says on which file systems
// that holds: see its reserve.go.
const roomFunctions = `
# room FILE BYTES: takes room on the disk, by what cannot be compressed.
room() { head -c "$2" /dev/urandom >"$1" && [ "$(wc -c <"$1")" -eq "$2" ] && flush "$1"; } 2>/dev/null
# spare: ends with 77 if there is not even room for the files of a job.
spare() {
	room "$D/room.$$" 16384
	r=$?
	rm -f "$D/room.$$"
	late "$D/room.$$"
	[ $r = 0 ] || exit 77
}
# says FILE LINE: whether the first line of a file is that.
says() { read -r l <"$1" && [ "$l" = "$2" ]; }
# put FILE LINE ROOM: has FILE consist of a line, in one step: on the room that was
# taken for it, or where that is not there or does not help in a new file.
put() {
	if [ -s "$3" ]; then
		n=$(printf '%s\n' "$2" | wc -c)
		[ $((n)) -le 4096 ] && printf '%s\n' "$2" | dd of="$3" bs=4096 conv=notrunc &&
			dd if=/dev/null of="$3" bs=1 seek=$((n)) && flush "$3" && says "$3" "$2" && mv "$3" "$1" && return
		rm -f "$3"
	fi
	printf '%s\n' "$2" >"$1.new" && says "$1.new" "$2" && flush "$1.new" && mv "$1.new" "$1" || { rm -f "$1.new"; false; }
} 2>/dev/null
`
