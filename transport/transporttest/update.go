package transporttest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/roundsman-go/roundsman/transport"
)

// The states of an update, as the fake hands them to Checkpoint.
const (
	stateDriver  = "transporttest"
	stateVersion = 1

	phasePrepare = "prepare" // upload or queue entry: can be taken back
	phaseFlash   = "flash"   // the request that cannot
	phaseWait    = "wait"    // it was answered
)

type stateData struct {
	Tag     string   `json:"tag"`
	Digest  string   `json:"digest"`
	Devices []string `json:"devices"`
	BootID  string   `json:"boot_id"`
}

// updater is one Update at work.
type updater struct {
	*conn
	k       *call
	payload transport.Payload
	opts    transport.UpdateOptions
	data    stateData
	phase   string // where an earlier call stopped; "" for a fresh update
	sent    bool
}

// Update implements transport.Updater.
func (c *conn) Update(ctx context.Context, p transport.Payload, opts transport.UpdateOptions) (res transport.Result, err error) {
	k, err := c.use(ctx, "update", p.Name, transport.CapUpdate)
	defer func() {
		if k.end(&err); err != nil {
			res = transport.Result{}
		}
	}()
	if err != nil {
		return res, err
	}
	u := &updater{conn: c, k: k, payload: p, opts: opts}
	if err := u.check(); err != nil {
		return res, err
	}
	if c.t.cfg.Pull && opts.Publish == nil {
		e := c.fail("update", p.Name, errors.ErrUnsupported, nil)
		e.Hint = "this target fetches payloads; UpdateOptions.Publish is nil"
		return res, e
	}
	if u.phase == "" {
		if verdict := u.compare(); verdict.Verdict != transport.VerdictUnknown {
			return verdict, nil
		}
		u.data.Tag = rand.Text()
	}
	return u.run(ctx)
}

func (u *updater) invalid(why string) error {
	return u.fail("update", u.payload.Name, transport.ErrInvalid, errors.New(why))
}

// check looks at the arguments, and at the state to resume from.
func (u *updater) check() error {
	if len(u.payload.Files) == 0 {
		return u.invalid("the payload has no files")
	}
	for _, f := range u.payload.Files {
		if err := f.Check(); err != nil {
			return u.fail("update", u.payload.Name, transport.ErrInvalid, err)
		}
	}
	digest := digestOf(u.payload)
	if s := u.opts.Resume; s != nil {
		if err := checkState(*s, &u.data); err != nil {
			return u.fail("update", u.payload.Name, transport.ErrInvalid, err)
		}
		if u.data.Digest != digest {
			return u.invalid("the state to resume from belongs to another payload")
		}
		u.phase, u.sent = s.Phase, s.Sent
		return nil
	}
	u.data = stateData{Digest: digest, BootID: u.t.Identity().BootID}
	u.f.mu.Lock()
	defer u.f.mu.Unlock()
	for _, id := range u.opts.Devices {
		if !slices.ContainsFunc(u.t.cfg.Devices, func(d transport.Device) bool { return d.ID == id }) {
			return u.invalid(fmt.Sprintf("there is no device %q", id))
		}
	}
	u.data.Devices = slices.Clone(u.opts.Devices)
	if len(u.data.Devices) == 0 {
		for _, d := range u.t.cfg.Devices {
			if d.ID == u.payload.Name || d.Class == u.payload.Name || (d.Model != "" && d.Model == u.payload.Name) {
				u.data.Devices = append(u.data.Devices, d.ID)
			}
		}
	}
	return nil
}

func checkState(s transport.State, data *stateData) error {
	if s.Driver != stateDriver || s.Version != stateVersion {
		return fmt.Errorf("state of driver %q version %d, want %q version %d", s.Driver, s.Version, stateDriver, stateVersion)
	}
	if err := json.Unmarshal(s.Data, data); err != nil {
		return fmt.Errorf("state: %w", err)
	}
	if data.Tag == "" || data.Digest == "" || !slices.Contains([]string{phasePrepare, phaseFlash, phaseWait}, s.Phase) {
		return errors.New("state: incomplete")
	}
	return nil
}

// compare says whether there is anything to do.
func (u *updater) compare() transport.Result {
	if len(u.data.Devices) == 0 {
		return transport.Result{Verdict: transport.VerdictFailed, Code: transport.Code{Space: "fake", Value: "no-device"},
			Text: "the payload fits no device"}
	}
	u.f.mu.Lock()
	defer u.f.mu.Unlock()
	for _, d := range u.t.cfg.Devices {
		if !slices.Contains(u.data.Devices, d.ID) {
			continue
		}
		switch c := compareVersions(u.payload.Version, d.Firmware); {
		case c > 0, c == 0 && u.opts.Rewrite, c < 0 && u.opts.Downgrade:
			return transport.Result{}
		}
	}
	return transport.Result{Verdict: transport.VerdictNotNeeded}
}

// checkpoint makes the state durable.
func (u *updater) checkpoint(ctx context.Context, phase string, sent bool) error {
	if u.opts.Checkpoint == nil {
		return nil
	}
	data, err := json.Marshal(u.data)
	if err == nil {
		err = u.opts.Checkpoint(ctx, transport.State{Driver: stateDriver, Version: stateVersion, Phase: phase, Sent: sent, Data: data})
	}
	if err != nil {
		return u.fail("update", u.payload.Name, nil, fmt.Errorf("the state could not be kept: %w", err))
	}
	return nil
}

func (u *updater) run(ctx context.Context) (transport.Result, error) {
	j := u.t.job(u.data.Tag)
	if j == nil && u.sent && u.data.BootID != u.t.Identity().BootID && u.t.cfg.ForgetJobs {
		// The target does not remember what it did before it rebooted; whoever reads
		// the versions will see.
		return transport.Result{Verdict: transport.VerdictUnknown, Text: "the target rebooted and has no record of the update"}, nil
	}
	published, err := u.publish(ctx, j)
	if err != nil {
		return transport.Result{}, err
	}
	if j == nil {
		if j, err = u.begin(ctx, published); err != nil {
			_ = u.release(ctx, published, j) // err is what the caller must hear
			return transport.Result{}, err
		}
	}
	res, err := u.follow(ctx, j)
	if rerr := u.release(ctx, published, j); err == nil {
		err = rerr
	}
	return res, err
}

func (u *updater) progress(phase string, done int64) {
	if u.opts.Progress != nil {
		u.opts.Progress(transport.Progress{Phase: phase, Done: done, Total: max(done, u.payload.Size())})
	}
}

// begin brings the target as far as to have the flash requested.
func (u *updater) begin(ctx context.Context, published []transport.Published) (*job, error) {
	if u.phase == "" {
		if err := u.checkpoint(ctx, phasePrepare, false); err != nil {
			return nil, err
		}
	}
	files, err := u.prepare(ctx, published)
	if err != nil {
		return nil, err
	}
	if err := u.checkpoint(ctx, phaseFlash, true); err != nil {
		return nil, err
	}
	if err := u.state(ctx, "update", u.payload.Name); err != nil {
		return nil, err
	}
	j := &job{tag: u.data.Tag, version: u.payload.Version, devices: u.data.Devices, sources: files}
	if err := u.step(ctx, "update.flash", func(*call) error {
		u.t.request(j)
		return nil
	}); err != nil {
		return nil, err
	}
	// The target works on it: that is recorded also when the caller has given up.
	return j, u.checkpoint(context.WithoutCancel(ctx), phaseWait, false)
}

// step is a request to the device, with an entry in the journal of its own.
func (u *updater) step(ctx context.Context, op string, f func(k *call) error) (err error) {
	k, err := u.conn.begin(ctx, op, u.payload.Name)
	defer func() { k.end(&err) }()
	if err != nil {
		return err
	}
	return f(k)
}

// prepare uploads the files, or makes the queue entry that names their URLs.
func (u *updater) prepare(ctx context.Context, published []transport.Published) ([]imageFile, error) {
	u.f.mu.Lock()
	img := u.t.flasher.images[u.data.Digest]
	if img == nil {
		img = &image{name: u.payload.Name + " " + u.payload.Version, received: map[string][]byte{}}
		u.t.flasher.images[u.data.Digest] = img
	}
	u.f.mu.Unlock()
	var out []imageFile
	for i, f := range u.payload.Files {
		file := imageFile{name: f.Name, size: f.Size, sha256: f.SHA256}
		if u.t.cfg.Pull {
			file.url = published[i].URL
		} else {
			err := u.step(ctx, "update.upload", func(k *call) (err error) {
				file.data, err = u.upload(ctx, k, img, f)
				return err
			})
			if err != nil {
				return nil, err
			}
		}
		out = append(out, file)
	}
	return out, nil
}

// upload sends what the target does not have yet of a file, and checks it there.
func (u *updater) upload(ctx context.Context, k *call, img *image, f transport.File) ([]byte, error) {
	local := func(err error) error {
		return u.fail("update", f.Name, nil, fmt.Errorf("reading on the manager: %w", err))
	}
	r, err := f.Open(ctx)
	if err != nil {
		return nil, local(err)
	}
	defer r.Close()
	u.f.mu.Lock()
	got := slices.Clip(img.received[f.Name])
	u.f.mu.Unlock()
	if _, err := r.Seek(int64(len(got)), io.SeekStart); err != nil {
		return nil, local(err)
	}
	buf := make([]byte, chunk)
	for {
		n, rerr := io.ReadFull(r, buf)
		for p := buf[:n]; len(p) > 0; {
			n, err := k.move(ctx, len(p))
			if err != nil {
				return nil, err
			}
			got = append(got, p[:n]...)
			p = p[n:]
			u.f.mu.Lock()
			img.received[f.Name] = got
			u.f.mu.Unlock()
			u.progress("upload", int64(len(got)))
		}
		if errors.Is(rerr, io.EOF) || errors.Is(rerr, io.ErrUnexpectedEOF) {
			break
		}
		if rerr != nil {
			return nil, local(rerr)
		}
	}
	if int64(len(got)) != f.Size || sha256.Sum256(got) != f.SHA256 {
		u.f.mu.Lock()
		delete(u.t.flasher.images, u.data.Digest)
		u.f.mu.Unlock()
		return nil, u.fail("update", f.Name, transport.ErrIntegrity, fmt.Errorf("the %d bytes that arrived do not have the SHA-256 %s", len(got), f.Digest()))
	}
	return got, nil
}

// follow waits for the end of a job.
func (u *updater) follow(ctx context.Context, j *job) (transport.Result, error) {
	if err := u.fetchWatch(ctx, j); err != nil {
		return transport.Result{}, err
	}
	u.progress("flash", 0)
	if err := u.wait(ctx, "update", u.payload.Name, j.done); err != nil {
		return transport.Result{}, err
	}
	u.f.mu.Lock()
	res := j.result
	delete(u.t.flasher.images, u.data.Digest)
	u.f.mu.Unlock()
	return res, nil
}

// Undo implements transport.Undoer.
func (c *conn) Undo(ctx context.Context, s transport.State) (err error) {
	k, err := c.use(ctx, "undo", s.Phase, transport.CapUndo)
	defer func() { k.end(&err) }()
	if err != nil {
		return err
	}
	var data stateData
	if err := checkState(s, &data); err != nil {
		return c.fail("undo", "", transport.ErrInvalid, err)
	}
	if j := c.t.job(data.Tag); j != nil && !isClosed(j.done) {
		if !c.t.cancelJob(j) {
			e := c.fail("undo", "", transport.ErrBusy, errors.New("the device is being written"))
			e.Hint = "wait for its end: it is never interrupted"
			return e
		}
		if err := c.wait(ctx, "undo", "", j.done); err != nil {
			return err
		}
	}
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	delete(c.t.flasher.images, data.Digest)
	return nil
}

// digestOf identifies the content of a payload.
func digestOf(p transport.Payload) string {
	h := sha256.New()
	fmt.Fprintf(h, "%q %q", p.Name, p.Version)
	for _, f := range p.Files {
		fmt.Fprintf(h, " %q %d %s", f.Name, f.Size, f.Digest())
	}
	return hex.EncodeToString(h.Sum(nil))
}

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}
