package agent

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// asked has a program "check" at the other end.
func asked(t *testing.T) *CheckClient {
	t.Helper()
	here, there := net.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- ServeCheck(context.Background(), there, there)
		there.Close()
	}()
	c := &CheckClient{Conn: here, Target: "t"}
	t.Cleanup(func() {
		require.NoError(t, c.Close(context.Background()))
		require.NoError(t, <-done)
	})
	return c
}

// TestCheck: what a host answers, in order, and what it does not understand.
func TestCheck(t *testing.T) {
	c := asked(t)
	a, err := c.Ask(t.Context(), CheckQuestion{Facts: &FactsQuestion{Dirs: []string{t.TempDir() + "/not/there", "/"}}})
	require.NoError(t, err)
	require.Len(t, a.Facts.Free, 2)
	require.WithinDuration(t, time.Now(), a.Facts.Now, time.Minute)
	_, err = c.Ask(t.Context(), CheckQuestion{})
	require.ErrorContains(t, err, "not known")
	a, err = c.Ask(t.Context(), CheckQuestion{Listen: &ListenOptions{Greeting: "hi"}})
	require.NoError(t, err)
	require.Greater(t, a.Listening.Port, uint16(1024))
	// It ends without being told to stop listening; Cleanup waits for it.
}

// TestCheckSilence: a target that says nothing, or ends, holds nobody up.
func TestCheckSilence(t *testing.T) {
	here, there := net.Pipe()
	go func() { _, _ = io.Copy(io.Discard, there) }()
	c := &CheckClient{Conn: here, Target: "t"}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err := c.Ask(ctx, CheckQuestion{Unlisten: 1})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NoError(t, there.Close())
	_, err = c.Ask(t.Context(), CheckQuestion{Unlisten: 1})
	require.Error(t, err)
}

// TestCheckLease: where a cable is cut the input does not end, and the program does.
func TestCheckLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		defer here.Close()
		done := make(chan error, 1)
		go func() {
			done <- ServeCheck(context.Background(), there, there)
			there.Close()
		}()
		c := &CheckClient{Conn: here, Target: "t"}
		for range 3 { // asked in time, it stays
			time.Sleep(checkLease - time.Second)
			_, err := c.Ask(t.Context(), CheckQuestion{Unlisten: 1})
			require.NoError(t, err)
		}
		time.Sleep(checkLease + time.Second)
		require.ErrorContains(t, <-done, "no question")
	})
}

// TestCheckDenied: missing rights are told from other errors.
func TestCheckDenied(t *testing.T) {
	here, there := net.Pipe()
	go func() {
		_, _ = there.Read(make([]byte, 1000))
		_, _ = io.WriteString(there, `{"error":"not root","denied":true}`+"\n")
	}()
	_, err := (&CheckClient{Conn: here, Target: "t"}).Ask(t.Context(), CheckQuestion{Listen: &ListenOptions{}})
	require.ErrorIs(t, err, fs.ErrPermission)
}

func TestHowReached(t *testing.T) {
	for err, want := range map[error]string{
		syscall.ECONNREFUSED: ReachedRefused, syscall.EHOSTUNREACH: ReachedNoRoute, syscall.ENETUNREACH: ReachedNoRoute,
		context.DeadlineExceeded: ReachedNothing, syscall.ETIMEDOUT: ReachedNothing, syscall.EPERM: ReachedForbids, io.EOF: ReachedFailed,
	} {
		require.Equal(t, want, HowReached(&net.OpError{Op: "dial", Err: err}), "%v", err)
	}
	require.Equal(t, ReachedPeer, HowReached(nil))
}

// FuzzCheckAnswer: a target may say anything.
func FuzzCheckAnswer(f *testing.F) {
	for _, s := range []string{
		`{}`, `{"error":"x","denied":true}`, `{"reached":{"how":"filtered","greeting":"` + strings.Repeat("x", 100) + `"}}`, `{"listening":{"port":62286}}`,
		`{"facts":{"os":"linux","free":[1,-1],"now":"2026-01-02T03:04:05Z","holders":[{"agent":"x"}]}}`, `[]`, "{\"error\":\"\x00\xff\"}",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		a, err := parseCheckAnswer(line)
		if err != nil {
			return
		}
		require.LessOrEqual(t, len(a.Error), maxText)
		if a.Reached != nil {
			require.LessOrEqual(t, len(a.Reached.Greeting), maxGreeting)
			require.LessOrEqual(t, len(a.Reached.Text), maxText)
			require.NotEmpty(t, a.Reached.How)
		}
		_, err = json.Marshal(a)
		require.NoError(t, err)
	})
}

// FuzzCheckQuestion: nor does a question that is none harm the program: it answers
// what came before, each question once and in order, and ends.
func FuzzCheckQuestion(f *testing.F) {
	f.Add("{}\n{\"quit\":true}\n")
	f.Add("{\"facts\":{\"dirs\":[]}}\n{\"unlisten\":7}")
	f.Add("\n\n")
	f.Add("{}\n[]\n{}\n")
	f.Add("{}\n" + strings.Repeat(" ", maxCheckLine))
	f.Fuzz(func(t *testing.T, in string) {
		var facts []bool // whether each answer has them
		var bad, quit bool
		rest := bufio.NewReaderSize(strings.NewReader(in), maxCheckLine)
		for !bad && !quit {
			line, err := rest.ReadSlice('\n')
			if errors.Is(err, io.EOF) && len(line) == 0 {
				break
			}
			var q CheckQuestion
			bad = errors.Is(err, bufio.ErrBufferFull) || json.Unmarshal(line, &q) != nil
			if q.Listen != nil || q.Dial != nil || q.Facts != nil && (q.Facts.ID != "" || len(q.Facts.Dirs) > 0) {
				return // it would open ports, dial, and look at this machine
			}
			if quit = q.Quit; !bad && !quit {
				facts = append(facts, q.Facts != nil)
			}
		}
		var out bytes.Buffer
		err := ServeCheck(context.Background(), strings.NewReader(in), &out)
		require.Equal(t, bad, err != nil, "%v", err)
		var got []bool
		for line := range bytes.Lines(out.Bytes()) {
			a, err := parseCheckAnswer(line)
			require.NoError(t, err)
			got = append(got, a.Facts != nil)
		}
		require.Equal(t, facts, got)
	})
}
