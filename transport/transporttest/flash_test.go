package transporttest_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/transporttest"
)

func firmware(version string) transport.Payload {
	return transport.Payload{Name: "bmc", Version: version, Files: []transport.File{
		transport.BytesFile("fw.bin", make([]byte, 200_000)), transport.BytesFile("fw.sig", []byte(version))}}
}

// last returns options that keep the last state in s.
func last(s *transport.State) transport.UpdateOptions {
	return transport.UpdateOptions{Checkpoint: func(_ context.Context, now transport.State) error {
		*s = now
		return nil
	}}
}

func TestDeviceSays(t *testing.T) {
	for name, tt := range map[string]struct {
		script transporttest.Flash
		want   transport.Result
		after  string
	}{
		"success": {transporttest.Flash{Text: "ok"}, transport.Result{Verdict: transport.VerdictApplied, Text: "ok"}, "3.0"},
		"success without a new version": {transporttest.Flash{Lie: true},
			transport.Result{Verdict: transport.VerdictApplied}, "2.10"},
		"failure": {transporttest.Flash{Fail: transport.Code{Space: "ilo", Value: "Update.1.0.ApplyFailed"}, Text: "verbatim"},
			transport.Result{Verdict: transport.VerdictFailed, Code: transport.Code{Space: "ilo", Value: "Update.1.0.ApplyFailed"}, Text: "verbatim"}, "2.10"},
	} {
		t.Run(name, func(t *testing.T) {
			fake, target := transporttest.NewPushDevice()
			closed(t, fake)
			target.NextFlash(tt.script)
			res, err := transport.Update(t.Context(), dial(t, target), firmware("3.0"), transport.UpdateOptions{})
			require.NoError(t, err)
			require.Equal(t, tt.want, res)
			require.Equal(t, tt.after, target.Firmware("bmc"))
			require.Equal(t, []string{"3.0"}, target.Applied())
			require.Equal(t, "2.36", target.Firmware("bios"), "other devices are left alone")
		})
	}
}

func TestPayloadFitsNothing(t *testing.T) {
	fake, target := transporttest.NewPushDevice()
	closed(t, fake)
	p := firmware("3.0")
	p.Name = "toaster"
	res, err := transport.Update(t.Context(), dial(t, target), p, transport.UpdateOptions{})
	require.NoError(t, err)
	require.Equal(t, transport.VerdictFailed, res.Verdict)
	require.Empty(t, target.Applied())
}

// TestUploadCut: what was uploaded is not sent again.
func TestUploadCut(t *testing.T) {
	fake, target := transporttest.NewPushDevice()
	closed(t, fake)
	target.Inject(transporttest.Fault{Op: "update.upload", After: 150_000, Do: transporttest.Cut})
	var s transport.State
	_, err := transport.Update(t.Context(), dial(t, target), firmware("3.0"), last(&s))
	require.ErrorIs(t, err, transport.ErrConnLost)
	require.Empty(t, target.Applied())
	require.Equal(t, []string{"bmc 3.0"}, target.Leftovers())

	opts := last(&s)
	opts.Resume = &s
	res, err := transport.Update(t.Context(), dial(t, target), firmware("3.0"), opts)
	require.NoError(t, err)
	require.Equal(t, transport.VerdictApplied, res.Verdict)
	var sent []int64
	for _, c := range fake.Calls() {
		if c.Op == "update.upload" {
			sent = append(sent, c.Bytes)
		}
	}
	require.Equal(t, []int64{150_000, 50_000, 3}, sent)
	require.Empty(t, target.Leftovers())
}

// TestFlashRequest: lost on its way it is sent again; lost on the way back it is
// not.
func TestFlashRequest(t *testing.T) {
	for name, do := range map[string]transporttest.Effect{"request lost": transporttest.Cut, "reply lost": transporttest.LoseReply} {
		t.Run(name, func(t *testing.T) {
			fake, target := transporttest.NewPushDevice()
			closed(t, fake)
			target.Inject(transporttest.Fault{Op: "update.flash", Do: do})
			var s transport.State
			_, err := transport.Update(t.Context(), dial(t, target), firmware("3.0"), last(&s))
			require.ErrorIs(t, err, transport.ErrConnLost)
			require.True(t, s.Sent)
			opts := last(&s)
			opts.Resume = &s
			res, err := transport.Update(t.Context(), dial(t, target), firmware("3.0"), opts)
			require.NoError(t, err)
			require.Equal(t, transport.VerdictApplied, res.Verdict)
			require.Equal(t, []string{"3.0"}, target.Applied())
		})
	}
}

func TestTargetForgets(t *testing.T) {
	fake := transporttest.New()
	closed(t, fake)
	target := fake.Add(transporttest.TargetConfig{Address: "d", Caps: transport.CapInventory | transport.CapUpdate, ForgetJobs: true,
		Devices: []transport.Device{{ID: "bmc", Class: transport.ClassBMC, Firmware: "2.0"}}})
	target.Inject(transporttest.Fault{Op: "update.flash", Do: transporttest.Reboot})
	var s transport.State
	_, err := transport.Update(t.Context(), dial(t, target), firmware("3.0"), last(&s))
	require.ErrorIs(t, err, transport.ErrConnLost)
	opts := last(&s)
	opts.Resume = &s
	res, err := transport.Update(t.Context(), dial(t, target), firmware("3.0"), opts)
	require.NoError(t, err)
	require.Equal(t, transport.VerdictUnknown, res.Verdict)
	require.Empty(t, target.Applied(), "it was not sent again, for it might have arrived")
}

// TestFlashIsNeverInterrupted: the device goes on when its caller has gone, and
// refuses to undo.
func TestFlashIsNeverInterrupted(t *testing.T) {
	fake, target := transporttest.NewPushDevice()
	closed(t, fake)
	hold, begun := make(chan struct{}), make(chan struct{})
	target.NextFlash(transporttest.Flash{Hold: hold, Begun: begun})
	ctx, cancel := context.WithCancel(t.Context())
	var s transport.State
	conn := dial(t, target)
	go func() {
		<-begun
		cancel()
	}()
	_, err := transport.Update(ctx, conn, firmware("3.0"), last(&s))
	require.ErrorIs(t, err, context.Canceled)
	require.False(t, s.Sent, "the answer is recorded")
	require.ErrorIs(t, transport.Undo(t.Context(), conn, s), transport.ErrBusy)
	require.NoError(t, conn.Close(t.Context()))
	require.Equal(t, "2.10", target.Firmware("bmc"))
	close(hold)
	opts := last(&s)
	opts.Resume = &s
	res, err := transport.Update(t.Context(), dial(t, target), firmware("3.0"), opts)
	require.NoError(t, err)
	require.Equal(t, transport.VerdictApplied, res.Verdict)
	require.Equal(t, []string{"3.0"}, target.Applied())
}

func TestStaged(t *testing.T) {
	for _, tt := range []struct{ staged, weaker transport.Activation }{
		{transport.ActivationReset, transport.ActivationNone},
		{transport.ActivationReboot, transport.ActivationReset},
		{transport.ActivationPowerCycle, transport.ActivationReboot},
	} {
		fake := transporttest.New()
		target := fake.Add(transporttest.TargetConfig{Address: "d", Caps: transport.CapInventory | transport.CapUpdate | transport.CapUndo,
			Staged: tt.staged, Devices: []transport.Device{{ID: "bmc", Class: transport.ClassBMC, Firmware: "2.0"}}})
		h := target.Harness()
		for name, reason := range map[string]string{
			"dial/wrong-trust": "shows no key", "dial/empty-trust": "shows no key", "dial/first-use": "shows no key"} {
			h.Skip[name] = reason
		}
		require.NoError(t, transporttest.Conformance(t.Context(), h))

		res, err := transport.Update(t.Context(), dial(t, target), firmware("200.0"), transport.UpdateOptions{})
		require.NoError(t, err)
		require.Equal(t, transport.Result{Verdict: transport.VerdictStaged, Activation: tt.staged}, res)
		before := target.Firmware("bmc")
		require.NotEqual(t, "200.0", before)
		target.Activate(tt.weaker)
		require.Equal(t, before, target.Firmware("bmc"), "a weaker activation does not stand in for a stronger one")
		target.Activate(tt.staged)
		require.Equal(t, "200.0", target.Firmware("bmc"))
		require.NoError(t, fake.Close())
	}
}

// TestNobodyFetches: told early that a target which should pull has not, the
// caller can undo.
func TestNobodyFetches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := transporttest.New()
		target := fake.Add(transporttest.TargetConfig{Address: "d", Caps: transport.CapInventory | transport.CapUpdate | transport.CapUndo,
			Pull: true, FetchTimeout: time.Minute, Devices: []transport.Device{{ID: "bmc", Class: transport.ClassBMC, Firmware: "2.0"}}})
		target.NextFlash(transporttest.Flash{NeverFetch: true})
		var s transport.State
		opts := last(&s)
		released := 0
		opts.Publish = func(context.Context, transport.PublishRequest) (transport.Published, error) {
			return transport.Published{URL: "http://192.0.2.1/never", Release: func(context.Context) (int64, error) {
				released++
				return 0, nil
			}}, nil
		}
		start := time.Now()
		_, err := transport.Update(t.Context(), dial(t, target), firmware("3.0"), opts)
		require.ErrorIs(t, err, transport.ErrTimeout)
		require.Equal(t, time.Minute, time.Since(start))
		require.Equal(t, 2, released)
		require.Empty(t, target.Applied())
		require.NotEmpty(t, target.Leftovers())
		require.NoError(t, transport.Undo(t.Context(), dial(t, target), s))
		require.Empty(t, target.Leftovers())
		require.NoError(t, fake.Close())
	})
}

// TestPullCountsBytes: the target fetches over real HTTP, and what it fetched is
// reported.
func TestPullCountsBytes(t *testing.T) {
	fake, target := transporttest.NewPullDevice()
	closed(t, fake)
	pub, err := transporttest.NewPublisher("")
	require.NoError(t, err)
	defer pub.Close()
	var fetched int64
	p := firmware("3.0")
	res, err := transport.Update(t.Context(), dial(t, target), p, transport.UpdateOptions{
		Publish: pub.Publish,
		Progress: func(p transport.Progress) {
			if p.Phase == "fetch" {
				fetched = p.Done
			}
		},
	})
	require.NoError(t, err)
	require.Equal(t, transport.VerdictApplied, res.Verdict)
	require.Equal(t, p.Size(), fetched)
	require.Equal(t, p.Size(), pub.Fetched())
	require.Zero(t, pub.Open())
	require.Equal(t, 2, pub.Published())
}

func TestPublisher(t *testing.T) {
	pub, err := transporttest.NewPublisher("")
	require.NoError(t, err)
	defer pub.Close()
	f := transport.BytesFile("fw.bin", []byte("content"))
	one, err := pub.Publish(t.Context(), transport.PublishRequest{File: f, Key: "k"})
	require.NoError(t, err)
	again, err := pub.Publish(t.Context(), transport.PublishRequest{File: f, Key: "k"})
	require.NoError(t, err)
	other, err := pub.Publish(t.Context(), transport.PublishRequest{File: f, Key: "l"})
	require.NoError(t, err)
	require.Equal(t, one.URL, again.URL)
	require.NotEqual(t, one.URL, other.URL)
	require.Equal(t, 2, pub.Open())
	for _, r := range []transport.PublishRequest{{File: f, TLS: true}, {File: f, FixedPort: 1}, {Tree: []transport.File{f}}} {
		_, err = pub.Publish(t.Context(), r)
		require.ErrorIs(t, err, errors.ErrUnsupported)
	}
	_, err = pub.Publish(t.Context(), transport.PublishRequest{Key: "m"})
	require.ErrorIs(t, err, transport.ErrInvalid)
	require.Equal(t, 2, pub.Open())

	odd, err := pub.Publish(t.Context(), transport.PublishRequest{File: transport.BytesFile("a b/fw#1 100%?.bin", []byte("odd")), Key: "o"})
	require.NoError(t, err)
	res, err := http.Get(odd.URL)
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, "odd", string(body))
}
