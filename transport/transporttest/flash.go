package transporttest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

// flasher is the part of a target that takes updates. Its fields are guarded by
// the lock of the fake.
type flasher struct {
	images  map[string]*image // uploads and queue entries, by digest of the payload
	jobs    []*job
	scripts []Flash
	applied []string          // versions, in the order in which they were applied
	pending map[string]string // device to version, until the activation
}

func (fl *flasher) init() { fl.images, fl.pending = map[string]*image{}, map[string]string{} }

// image is what a run put on the target before the flash.
type image struct {
	name     string
	received map[string][]byte // by file name
}

// job is a flash that was requested. The target works on it whether or not
// anybody is connected.
type job struct {
	tag     string // given by the requester, to find it again
	version string
	devices []string
	sources []imageFile
	fetched chan struct{} // closed when the target has all it needs
	done    chan struct{}
	cancel  context.CancelFunc
	begun   bool // it writes to the device: nothing stops it now
	result  transport.Result
}

// imageFile is a file of a payload as the target knows it.
type imageFile struct {
	name   string
	url    string // to fetch it from, or
	data   []byte // what was uploaded
	size   int64
	sha256 [sha256.Size]byte
}

// Flash scripts how one flash goes; see [Target.NextFlash].
type Flash struct {
	// Fail makes the device say that it failed, with this code and Text, and keep
	// its version.
	Fail transport.Code
	Text string
	// Lie makes the device claim success and keep its version.
	Lie bool
	// NeverFetch makes a target that should fetch the payload never ask for it.
	NeverFetch bool
	// Hold, if set, is how long the device writes: until it is closed.
	Hold <-chan struct{}
	// Begun, if set, is closed when the device begins to write.
	Begun chan<- struct{}
}

// NextFlash scripts the next flash that has no script yet. A flash without a
// script succeeds.
func (t *Target) NextFlash(s Flash) {
	t.f.mu.Lock()
	defer t.f.mu.Unlock()
	t.flasher.scripts = append(t.flasher.scripts, s)
}

// Applied returns the versions that the target applied, in order: one entry for
// each time that a payload was written to its devices, however often the same.
func (t *Target) Applied() []string {
	t.f.mu.Lock()
	defer t.f.mu.Unlock()
	return slices.Clone(t.flasher.applied)
}

// Leftovers names the images and queue entries that wait on the target.
func (t *Target) Leftovers() []string {
	t.f.mu.Lock()
	defer t.f.mu.Unlock()
	var out []string
	for _, i := range t.flasher.images {
		out = append(out, i.name)
	}
	slices.Sort(out)
	return out
}

// Firmware returns the version of a device as an inventory would say it, or ""
// if there is no such device.
func (t *Target) Firmware(device string) string {
	t.f.mu.Lock()
	defer t.f.mu.Unlock()
	for _, d := range t.cfg.Devices {
		if d.ID == device {
			return d.Firmware
		}
	}
	return ""
}

// Activate makes staged updates take effect for which what is enough; a reboot
// also does what a reset does, a power cycle what both do.
func (t *Target) Activate(what transport.Activation) {
	t.f.mu.Lock()
	defer t.f.mu.Unlock()
	t.activateLocked(what)
}

func (t *Target) activateLocked(what transport.Activation) {
	rank := []transport.Activation{transport.ActivationNone, transport.ActivationReset, transport.ActivationReboot, transport.ActivationPowerCycle}
	if slices.Index(rank, what) < slices.Index(rank, t.cfg.Staged) {
		return
	}
	for id, v := range t.flasher.pending {
		t.setFirmware(id, v)
	}
	clear(t.flasher.pending)
}

func (t *Target) setFirmware(device, version string) {
	for i := range t.cfg.Devices {
		if t.cfg.Devices[i].ID == device {
			t.cfg.Devices[i].Firmware = version
		}
	}
}

// request is the request that cannot be taken back: the target begins a job.
func (t *Target) request(j *job) {
	j.fetched, j.done = make(chan struct{}), make(chan struct{})
	ctx, cancel := context.WithCancel(t.f.life)
	j.cancel = cancel
	t.f.mu.Lock()
	var script Flash
	if len(t.flasher.scripts) > 0 {
		script, t.flasher.scripts = t.flasher.scripts[0], t.flasher.scripts[1:]
	}
	double := t.jobLocked(j.tag) != nil
	before := make(chan struct{})
	if n := len(t.flasher.jobs); n > 0 {
		before = t.flasher.jobs[n-1].done
	} else {
		close(before)
	}
	t.flasher.jobs = append(t.flasher.jobs, j)
	t.f.mu.Unlock()
	if double {
		_ = t.f.violate("update on %q: the same flash was requested twice", t.cfg.Address)
	}
	t.f.spawn(func() {
		defer cancel()
		select {
		case <-before: // the target does one thing at a time
		case <-ctx.Done():
		}
		res := t.work(ctx, j, script)
		t.f.mu.Lock()
		j.result = res
		t.f.mu.Unlock()
		close(j.done)
	})
}

func (t *Target) job(tag string) *job {
	t.f.mu.Lock()
	defer t.f.mu.Unlock()
	return t.jobLocked(tag)
}

func (t *Target) jobLocked(tag string) *job {
	for _, j := range t.flasher.jobs {
		if j.tag == tag {
			return j
		}
	}
	return nil
}

// work is what the device does with a job.
func (t *Target) work(ctx context.Context, j *job, script Flash) transport.Result {
	failed := func(code, text string) transport.Result {
		return transport.Result{Verdict: transport.VerdictFailed, Code: transport.Code{Space: "fake", Value: code}, Text: text}
	}
	cancelled := transport.Result{Verdict: transport.VerdictCancelled, Text: "cancelled before anything was written"}
	if script.NeverFetch {
		<-ctx.Done()
	}
	if ctx.Err() != nil {
		return cancelled
	}
	for _, s := range j.sources {
		if err := s.obtain(ctx); err != nil {
			if ctx.Err() != nil {
				return cancelled
			}
			return failed("bad-image", err.Error())
		}
	}
	close(j.fetched)
	t.f.mu.Lock()
	if ctx.Err() != nil {
		t.f.mu.Unlock()
		return cancelled
	}
	j.begun = true
	t.f.mu.Unlock()
	if script.Begun != nil {
		close(script.Begun)
	}
	if script.Hold != nil {
		select {
		case <-script.Hold:
		case <-t.f.life.Done():
			return failed("lost-power", "the fake was closed")
		}
	}
	t.f.mu.Lock()
	defer t.f.mu.Unlock()
	t.flasher.applied = append(t.flasher.applied, j.version)
	switch {
	case !script.Fail.IsZero():
		return transport.Result{Verdict: transport.VerdictFailed, Code: script.Fail, Text: script.Text}
	case script.Lie:
		return transport.Result{Verdict: transport.VerdictApplied, Text: script.Text}
	case t.cfg.Staged != transport.ActivationNone:
		for _, id := range j.devices {
			t.flasher.pending[id] = j.version
		}
		return transport.Result{Verdict: transport.VerdictStaged, Activation: t.cfg.Staged, Text: script.Text}
	}
	for _, id := range j.devices {
		t.setFirmware(id, j.version)
	}
	return transport.Result{Verdict: transport.VerdictApplied, Text: script.Text}
}

// obtain gets and checks one file of the payload.
func (s imageFile) obtain(ctx context.Context) error {
	h := sha256.New()
	var n int64
	if s.url == "" {
		h.Write(s.data)
		n = int64(len(s.data))
	} else {
		var err error
		for n, err = s.fetch(ctx, h); err != nil; n, err = s.fetch(ctx, h) {
			// The offer comes back when the update is resumed.
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(10 * time.Millisecond):
			}
			h.Reset()
		}
	}
	if n != s.size {
		return fmt.Errorf("%s has %d bytes, want %d", s.name, n, s.size)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != hex.EncodeToString(s.sha256[:]) {
		return fmt.Errorf("SHA-256 of %s is %s, want %x", s.name, got, s.sha256)
	}
	return nil
}

func (s imageFile) fetch(ctx context.Context, w io.Writer) (int64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, nil)
	if err != nil {
		return 0, err
	}
	tr := &http.Transport{DisableKeepAlives: true}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("GET answered %s", resp.Status)
	}
	return io.Copy(w, resp.Body)
}

// compareVersions orders dotted versions: numbers as numbers, the rest as text.
func compareVersions(a, b string) int {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i := range max(len(as), len(bs)) {
		x, y := "0", "0"
		if i < len(as) {
			x = as[i]
		}
		if i < len(bs) {
			y = bs[i]
		}
		xn, xerr := strconv.Atoi(x)
		yn, yerr := strconv.Atoi(y)
		c := strings.Compare(x, y)
		if xerr == nil && yerr == nil {
			c = xn - yn
		}
		if c != 0 {
			return c
		}
	}
	return 0
}
