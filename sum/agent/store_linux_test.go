package agent

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/roundsman-go/roundsman/sum/channel"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/stretchr/testify/require"
)

func testBlob(n int) (digest string, content []byte) {
	content = bytes.Repeat([]byte("0123456789"), n/10)
	return transport.BytesFile("x", content).Digest(), content
}

func faultCode(err error) string {
	var f *channel.Fault
	if errors.As(err, &f) {
		return f.Code
	}
	return ""
}

func TestStoreResumes(t *testing.T) {
	s := newStore(t.TempDir())
	ctx := t.Context()
	digest, content := testBlob(1000)
	broken := errors.New("line cut")
	n, err := s.Append(ctx, digest, 1000, 0, io.MultiReader(bytes.NewReader(content[:300]), iotest.ErrReader(broken)))
	require.ErrorIs(t, err, broken)
	require.EqualValues(t, 300, n)
	ok, err := s.has(digest, 1000)
	require.NoError(t, err)
	require.False(t, ok)

	for _, offset := range []int64{0, 299, 301, 1000} {
		n, err = s.Append(ctx, digest, 1000, offset, bytes.NewReader(content))
		require.ErrorIs(t, err, channel.ErrOffset)
		require.EqualValues(t, 300, n)
	}
	// Another store, as of a restarted agent, goes on.
	s = newStore(s.dir)
	n, err = s.Offset(ctx, digest, 1000)
	require.NoError(t, err)
	require.EqualValues(t, 300, n)
	n, err = s.Append(ctx, digest, 1000, 300, bytes.NewReader(append(content[300:], "more than that"...)))
	require.NoError(t, err)
	require.EqualValues(t, 1000, n)
	fi, err := os.Stat(s.file(digest))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o400), fi.Mode().Perm())
	n, err = s.Offset(ctx, digest, 1000)
	require.NoError(t, err)
	require.EqualValues(t, 1000, n)
	n, err = s.Append(ctx, digest, 1000, 0, bytes.NewReader(content))
	require.ErrorIs(t, err, channel.ErrOffset, "it is complete")
	require.EqualValues(t, 1000, n)
}

func TestStoreVerifies(t *testing.T) {
	s := newStore(t.TempDir())
	digest, content := testBlob(1000)
	content[500] ^= 1
	n, err := s.Append(t.Context(), digest, 1000, 0, bytes.NewReader(content))
	require.ErrorIs(t, err, channel.ErrDigest)
	require.Zero(t, n)
	entries, err := os.ReadDir(s.dir)
	require.NoError(t, err)
	require.Empty(t, entries)

	// Complete but not verified when the line broke: verified at the next question.
	for _, good := range []bool{true, false} {
		content[500] ^= 1
		require.NoError(t, os.WriteFile(s.part(digest), content, 0o600))
		n, err = s.Offset(t.Context(), digest, 1000)
		require.NoError(t, err)
		if good {
			require.EqualValues(t, 1000, n)
			require.NoError(t, os.Remove(s.file(digest)))
		} else {
			require.Zero(t, n)
		}
		require.NoFileExists(t, s.part(digest))
	}
}

func TestStoreRefuses(t *testing.T) {
	s := newStore(t.TempDir())
	digest, content := testBlob(1000)
	s.free = func(string) (int64, error) { return spaceReserve + 999, nil }
	_, err := s.Append(t.Context(), digest, 1000, 0, bytes.NewReader(content))
	require.Equal(t, codeNoSpace, faultCode(err))
	s.free = func(string) (int64, error) { return spaceReserve + 1000, nil }

	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		_, err := s.Append(ctx, digest, 1000, 0, r)
		done <- err
	}()
	w.Write(content[:10])
	_, err = s.Append(t.Context(), digest, 1000, 10, bytes.NewReader(content))
	require.Equal(t, channel.CodeBusy, faultCode(err), "two at a time")
	cancel()
	r.CloseWithError(context.Canceled) // as the channel's body does
	require.Error(t, <-done)
	n, err := s.Offset(t.Context(), digest, 1000)
	require.NoError(t, err)
	require.EqualValues(t, 10, n, "what came stays")

	empty := transport.BytesFile("", nil).Digest()
	n, err = s.Append(t.Context(), empty, 0, 0, strings.NewReader(""))
	require.NoError(t, err)
	require.Zero(t, n)
	ok, err := s.has(empty, 0)
	require.NoError(t, err)
	require.True(t, ok)
}

func TestStorePlaces(t *testing.T) {
	s := newStore(t.TempDir())
	digest, content := testBlob(1000)
	_, err := s.Append(t.Context(), digest, 1000, 0, bytes.NewReader(content))
	require.NoError(t, err)
	dir := t.TempDir()
	require.NoError(t, s.place(JobFile{Name: "a/b/data", SHA256: digest, Size: 1000}, dir))
	require.NoError(t, s.place(JobFile{Name: "run", SHA256: digest, Size: 1000, Executable: true}, dir))
	run, err := os.Stat(filepath.Join(dir, "run"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), run.Mode().Perm())
	stored, err := os.Stat(s.file(digest))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o400), stored.Mode().Perm(), "the stored file keeps its own permissions")

	// What was changed in the store since is found out, and fetched anew.
	require.NoError(t, os.Chmod(s.file(digest), 0o600))
	content[7] ^= 1
	require.NoError(t, os.WriteFile(s.file(digest), content, 0o600))
	for _, executable := range []bool{false, true} {
		other := newStore(t.TempDir())
		require.NoError(t, os.WriteFile(other.file(digest), content, 0o400))
		err = other.place(JobFile{Name: "new", SHA256: digest, Size: 1000, Executable: executable}, t.TempDir())
		require.ErrorIs(t, err, channel.ErrDigest)
		require.NoFileExists(t, other.file(digest))
	}
}
