package journal

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// MaxRecord is the greatest length of a record in the file in bytes, with its
// checksum and newline.
const MaxRecord = 256 << 10

// Op says what a record does to the resource that it names.
type Op string

const (
	// OpNote is a record about no resource; replay ignores it.
	OpNote Op = ""
	// OpOpened says that the resource is about to be opened.
	OpOpened Op = "opened"
	// OpClosed says that the resource is closed, or was never there.
	OpClosed Op = "closed"
)

// Record is one entry of a journal. A resource is known by its target, kind and
// id together.
type Record struct {
	// Seq is given by Append: 1 for the first record of a run, then without gaps.
	Seq uint64 `json:"seq"`
	// Time is set by Append when it is zero.
	Time time.Time `json:"time"`
	Op   Op        `json:"op,omitempty"`
	// Kind, Target and ID are the caller's, in UTF-8. Kind is not empty. Kinds that begin with "journal." are
	// the journal's own.
	Kind   string `json:"kind"`
	Target string `json:"target,omitempty"`
	ID     string `json:"id,omitempty"`
	// Data is the caller's JSON, or nil. It is stored compacted. Secrets never
	// go in.
	Data json.RawMessage `json:"data,omitempty"`
}

// Opened returns the record to append before a resource is opened. Data holds
// what is needed to close it after a crash.
func Opened(kind, target, id string, data json.RawMessage) Record {
	return Record{Op: OpOpened, Kind: kind, Target: target, ID: id, Data: data}
}

// Closed returns the record to append after a resource was closed.
func Closed(kind, target, id string) Record {
	return Record{Op: OpClosed, Kind: kind, Target: target, ID: id}
}

// The journal's own records.
const (
	kindPrefix  = "journal."
	kindBegin   = kindPrefix + "begin"
	kindAdopted = kindPrefix + "adopted"
	kindEnded   = kindPrefix + "ended"
)

// valid checks what a caller may append.
func (r *Record) valid() error {
	switch {
	case r.Kind == "":
		return fmt.Errorf("%w: it has no kind", ErrRecord)
	case strings.HasPrefix(r.Kind, kindPrefix):
		return fmt.Errorf("%w: the kind %q is reserved", ErrRecord, r.Kind)
	case !utf8.ValidString(r.Kind) || !utf8.ValidString(r.Target) || !utf8.ValidString(r.ID):
		// JSON cannot hold them: two resources would become one.
		return fmt.Errorf("%w: kind, target or id is not UTF-8", ErrRecord)
	case r.Op != OpNote && r.Op != OpOpened && r.Op != OpClosed:
		return fmt.Errorf("%w: unknown operation %q", ErrRecord, string(r.Op))
	}
	return nil
}

const (
	crcMember = `,"crc":"`
	crcLen    = len(crcMember) + 8 + len(`"}`)
	// seqRoom is what the greatest sequence number takes more than 0 does.
	seqRoom = 19
	seqHead = `{"seq":`
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// body is a record encoded without its number, which is known only when the
// record takes its place in the queue.
type body []byte

func (r Record) body() (body, error) {
	r.Seq = 0
	b, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRecord, err)
	}
	if len(b)+seqRoom+crcLen > MaxRecord {
		return nil, ErrTooLarge
	}
	return b[len(seqHead)+1 : len(b)-1], nil
}

// appendLine appends the whole line of a record, newline included.
func (b body) appendLine(dst []byte, seq uint64) []byte {
	start := len(dst)
	dst = append(dst, seqHead...)
	dst = strconv.AppendUint(dst, seq, 10)
	dst = append(dst, b...)
	sum := crc32.Checksum(dst[start:], castagnoli)
	dst = append(dst, crcMember...)
	dst = hex.AppendEncode(dst, []byte{byte(sum >> 24), byte(sum >> 16), byte(sum >> 8), byte(sum)})
	return append(dst, "\"}\n"...)
}

// decodeLine reads a line without its newline.
func decodeLine(line []byte) (Record, error) {
	var r Record
	n := len(line) - crcLen
	if n < 0 || !bytes.HasPrefix(line[n:], []byte(crcMember)) || !bytes.HasSuffix(line, []byte(`"}`)) {
		return r, fmt.Errorf("%w: it has no checksum", ErrCorrupt)
	}
	var sum [4]byte
	if _, err := hex.Decode(sum[:], line[n+len(crcMember):len(line)-2]); err != nil {
		return r, fmt.Errorf("%w: its checksum is not hexadecimal", ErrCorrupt)
	}
	want := uint32(sum[0])<<24 | uint32(sum[1])<<16 | uint32(sum[2])<<8 | uint32(sum[3])
	if got := crc32.Checksum(line[:n], castagnoli); got != want {
		return r, fmt.Errorf("%w: its checksum is %08x and not %08x", ErrCorrupt, got, want)
	}
	object := append(bytes.Clone(line[:n]), '}')
	if err := json.Unmarshal(object, &r); err != nil {
		return Record{}, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return r, nil
}

// key is the identity of a resource.
type key struct{ kind, target, id string }

func (r *Record) key() key { return key{r.Kind, r.Target, r.ID} }
