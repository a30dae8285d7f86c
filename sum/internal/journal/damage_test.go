package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// dead makes a directory with one dead run of four records and returns the
// run and the content of its file.
func dead(t *testing.T) (Run, []byte) {
	dir, ctx := newDir(t), t.Context()
	j := open(t, dir)
	require.NoError(t, j.Append(ctx, Opened("port", "t", "1", json.RawMessage(`{"a":1}`))))
	require.NoError(t, j.Append(ctx, Opened("port", "t", "2", nil)))
	require.NoError(t, j.Append(ctx, Opened("port", "t", "3", json.RawMessage(`[1,2]`))))
	require.NoError(t, j.Close(ctx))
	content, err := os.ReadFile(j.Path())
	require.NoError(t, err)
	require.Equal(t, 4, bytes.Count(content, []byte("\n")))
	return only(t, dir), content
}

func lineStarts(content []byte) []int {
	starts := []int{0}
	for i, c := range content[:len(content)-1] {
		if c == '\n' {
			starts = append(starts, i+1)
		}
	}
	return starts
}

// collect reads content as a journal.
func collect(content []byte) (ids []string, errs []*Error) {
	for r, err := range scan(bytes.NewReader(content), "file") {
		var e *Error
		if errors.As(err, &e) {
			errs = append(errs, e)
		} else {
			ids = append(ids, r.ID)
		}
	}
	return ids, errs
}

// TestTruncated cuts the file at every byte of its last record, and has each
// remainder adopted.
func TestTruncated(t *testing.T) {
	run, content := dead(t)
	starts := lineStarts(content)
	last := starts[3]
	for cut := last; cut < len(content); cut++ {
		require.NoError(t, os.WriteFile(run.Path, content[:cut], 0o600))
		var ids []string
		torn := false
		for r, err := range Read(run) {
			if err != nil {
				require.ErrorIs(t, err, ErrTorn)
				var e *Error
				require.ErrorAs(t, err, &e)
				require.Equal(t, 4, e.Line)
				require.EqualValues(t, last, e.Offset)
				require.Equal(t, run.Path, e.Path)
				torn = true
				continue
			}
			require.False(t, torn, "nothing follows a torn record")
			ids = append(ids, r.ID)
		}
		require.Equal(t, []string{"", "1", "2"}, ids, "cut at %d", cut)
		require.Equal(t, cut > last, torn, "cut at %d", cut)
		left, err := run.Open()
		require.NoError(t, err)
		require.Len(t, left, 2)

		j, err := Adopt(t.Context(), run, Options{})
		require.NoError(t, err)
		require.NoError(t, j.Append(t.Context(), Closed("port", "t", "1")))
		require.NoError(t, j.Append(t.Context(), Closed("port", "t", "2")))
		require.NoError(t, j.Retire(t.Context()))
		require.Len(t, read(t, run), 4, "it reads cleanly again")
		for r := range Read(run) {
			if r.Kind == kindAdopted {
				var note adopted
				require.NoError(t, json.Unmarshal(r.Data, &note))
				require.EqualValues(t, cut-last, note.TornBytes)
				require.Equal(t, os.Getpid(), note.PID)
			}
		}
	}
}

// TestZeroTail: a file system that lost power may leave a file longer than what
// was written to it.
func TestZeroTail(t *testing.T) {
	_, content := dead(t)
	ids, errs := collect(append(content, make([]byte, 2*MaxRecord)...))
	require.Len(t, ids, 4)
	require.Len(t, errs, 1)
	require.ErrorIs(t, errs[0], ErrTorn)
}

// TestCorruptMiddle changes every byte of the second record.
func TestCorruptMiddle(t *testing.T) {
	_, content := dead(t)
	starts := lineStarts(content)
	for i := starts[1]; i < starts[2]; i++ {
		for _, c := range []byte{content[i] ^ 1, '\n', 0, ' '} {
			if c == content[i] {
				continue
			}
			bad := slices.Clone(content)
			bad[i] = c
			ids, errs := collect(bad)
			require.NotEmpty(t, errs, "byte %d as %q", i, c)
			require.ErrorIs(t, errs[0], ErrCorrupt)
			require.Equal(t, 2, errs[0].Line)
			require.EqualValues(t, starts[1], errs[0].Offset)
			require.Contains(t, errs[0].Error(), "file:2: corrupt record")
			require.NotContains(t, ids, "1")
			require.Contains(t, ids, "3", "a caller that goes on gets what is whole")
		}
	}
}

func TestCorruptRunCanBeRecovered(t *testing.T) {
	run, content := dead(t)
	starts := lineStarts(content)
	content[starts[2]+3] ^= 1
	require.NoError(t, os.WriteFile(run.Path, content, 0o600))
	left, err := run.Open()
	require.ErrorIs(t, err, ErrCorrupt)
	require.Len(t, left, 2, "what can be read is there beside the error")
	j, err := Adopt(t.Context(), run, Options{})
	require.NoError(t, err)
	require.ErrorIs(t, j.Retire(t.Context()), ErrStillOpen)
	for _, r := range left {
		require.NoError(t, j.Append(t.Context(), Closed(r.Kind, r.Target, r.ID)))
	}
	require.NoError(t, j.Retire(t.Context()))
	left, err = run.Open()
	require.ErrorIs(t, err, ErrCorrupt)
	require.Empty(t, left)
}

// TestLostAndDoubledLines: whole lines with a right checksum in a wrong place.
func TestLostAndDoubledLines(t *testing.T) {
	_, content := dead(t)
	lines := bytes.SplitAfter(content, []byte("\n"))
	ids, errs := collect(bytes.Join([][]byte{lines[0], lines[2], lines[3]}, nil))
	require.Equal(t, []string{"", "2", "3"}, ids)
	require.Len(t, errs, 1)
	require.ErrorIs(t, errs[0], ErrCorrupt)
	require.Equal(t, 2, errs[0].Line)

	ids, errs = collect(bytes.Join([][]byte{lines[0], lines[1], lines[1], lines[2], lines[3]}, nil))
	require.Equal(t, []string{"", "1", "2", "3"}, ids)
	require.Len(t, errs, 1)
	require.Equal(t, 3, errs[0].Line)

	long := []byte(strings.Repeat("x", 3*MaxRecord) + "\n")
	ids, errs = collect(bytes.Join([][]byte{lines[0], long, lines[2], lines[3]}, nil))
	require.Equal(t, []string{"", "2", "3"}, ids)
	require.Len(t, errs, 1)
	require.ErrorIs(t, errs[0], ErrTooLarge)
}

func TestReadStopsWhenTold(t *testing.T) {
	run, _ := dead(t)
	n := 0
	for range Read(run) {
		if n++; n == 2 {
			break
		}
	}
	require.Equal(t, 2, n)
	for _, err := range Read(Run{Path: run.Path + ".gone"}) {
		require.ErrorIs(t, err, os.ErrNotExist)
	}
}

// FuzzRead: any bytes are read without panic, numbers rise, and what is
// reported has a line.
func FuzzRead(f *testing.F) {
	var good []byte
	for i, r := range []Record{{Kind: kindBegin}, Opened("k", "t", "1", json.RawMessage(`{}`)), Closed("k", "t", "1")} {
		b, err := r.body()
		require.NoError(f, err)
		good = b.appendLine(good, uint64(i+1))
	}
	f.Add(good)
	f.Add(good[:len(good)-5])
	f.Add(append(slices.Clone(good), good...))
	f.Add([]byte("\n\n{}\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		var last uint64
		torn := false
		for r, err := range scan(bytes.NewReader(content), "file") {
			require.False(t, torn)
			if err == nil {
				require.Greater(t, r.Seq, last)
				last = r.Seq
				continue
			}
			var e *Error
			require.ErrorAs(t, err, &e)
			require.Positive(t, e.Line)
			torn = errors.Is(err, ErrTorn)
			require.True(t, torn || errors.Is(err, ErrCorrupt))
		}
		require.Equal(t, len(content) > 0 && content[len(content)-1] != '\n', torn)
		_, _ = Replay(scan(bytes.NewReader(content), "file"))
	})
}

// FuzzRecord: what is written is what is read, on one line.
func FuzzRecord(f *testing.F) {
	f.Add("opened", "port", "host", "80", []byte(`{"a":[1,"\n"]}`), uint64(7))
	f.Add("", "note", "", "", []byte(nil), uint64(1)<<63)
	f.Fuzz(func(t *testing.T, op, kind, target, id string, data []byte, seq uint64) {
		in := Record{Time: time.Unix(1, 0).UTC(), Op: Op(op), Kind: kind, Target: target, ID: id, Data: data}
		b, err := in.body()
		if err != nil {
			return
		}
		line := b.appendLine(nil, seq)
		require.Equal(t, len(line)-1, bytes.IndexByte(line, '\n'))
		require.LessOrEqual(t, len(line), MaxRecord)
		require.True(t, json.Valid(line))
		out, err := decodeLine(line[:len(line)-1])
		require.NoError(t, err)
		require.Equal(t, seq, out.Seq)
		if in.valid() == nil {
			require.Equal(t, in.key(), out.key())
			require.Equal(t, in.Op, out.Op)
		}
		again, err := out.body()
		require.NoError(t, err)
		line = again.appendLine(nil, seq)
		same, err := decodeLine(line[:len(line)-1])
		require.NoError(t, err)
		require.Equal(t, out, same)
	})
}
