package agenttest

import (
	"context"
	"crypto/sha256"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/transport"
)

func (a *fakeAgent) Stage(ctx context.Context, f transport.File, progress func(int64)) (transport.PutResult, error) {
	if err := f.Check(); err != nil {
		a.in.mu.Lock()
		a.in.violate("stage on %s: %v", a.h.name, err)
		a.in.mu.Unlock()
		return transport.PutResult{}, &agent.Error{Op: string(Stage), Target: a.h.name, Err: err}
	}
	fault, err := a.enter(ctx, Stage)
	if err != nil {
		return transport.PutResult{}, err
	}
	limit := int64(-1) // bytes of this call
	if fault.fails() && fault.Bytes > 0 {
		limit = fault.Bytes
	}
	res, err := a.stage(ctx, f, limit, progress)
	if err == nil && limit >= 0 && res.Sent < limit && !fault.After {
		fault = nil // the file ended before the fault
	}
	if err = a.leave(ctx, Stage, fault, err); err != nil {
		return transport.PutResult{}, err
	}
	return res, nil
}

// stage copies at most limit bytes, or all if limit is negative.
func (a *fakeAgent) stage(ctx context.Context, f transport.File, limit int64, progress func(int64)) (transport.PutResult, error) {
	digest := f.Digest()
	a.in.mu.Lock()
	if err := a.reach(Stage); err != nil {
		a.in.mu.Unlock()
		return transport.PutResult{}, err
	}
	b := a.p.blobs[digest]
	if b == nil || !b.ok && b.size != f.Size {
		b = &blob{size: f.Size, sum: sha256.New()}
		a.p.blobs[digest] = b
	}
	res := transport.PutResult{Kept: b.have}
	whole := b.ok
	a.in.mu.Unlock()
	res.Info = transport.FileInfo{Name: digest, Native: a.p.dir + "/blobs/" + digest, Size: f.Size, Mode: 0o400, ModTime: time.Now()}
	if whole {
		if progress != nil {
			progress(f.Size)
		}
		return res, nil
	}
	r, err := f.Open(ctx)
	if err != nil {
		return res, &agent.Error{Op: string(Stage), Target: a.h.name, Err: err}
	}
	defer r.Close()
	if _, err := r.Seek(res.Kept, io.SeekStart); err != nil {
		return res, &agent.Error{Op: string(Stage), Target: a.h.name, Err: err}
	}
	buf := make([]byte, 32<<10)
	for limit < 0 || res.Sent < limit {
		if err := ctx.Err(); err != nil {
			return res, a.err(Stage, err, "")
		}
		chunk := buf
		if limit >= 0 {
			chunk = buf[:min(int64(len(buf)), limit-res.Sent)]
		}
		n, rerr := r.Read(chunk)
		a.in.mu.Lock()
		if err := a.reach(Stage); err != nil {
			a.in.mu.Unlock()
			return res, err
		}
		b.sum.Write(chunk[:n])
		b.have += int64(n)
		a.p.received += int64(n)
		have := b.have
		a.in.mu.Unlock()
		res.Sent += int64(n)
		if progress != nil && n > 0 {
			progress(have)
		}
		if rerr == io.EOF {
			break
		}
		if rerr != nil {
			return res, &agent.Error{Op: string(Stage), Target: a.h.name, Err: rerr}
		}
	}
	a.in.mu.Lock()
	defer a.in.mu.Unlock()
	if b.have < b.size && limit >= 0 && res.Sent == limit {
		return res, nil // the caller makes it fail
	}
	if b.have != b.size || [sha256.Size]byte(b.sum.Sum(nil)) != f.SHA256 {
		delete(a.p.blobs, digest)
		return res, a.err(Stage, transport.ErrIntegrity, "the file is not what its description says")
	}
	b.ok = true
	return res, nil
}

// logFiles returns the logs by the names that Log takes; the caller holds in.mu.
func (a *fakeAgent) logFiles() map[string][]byte {
	out := map[string][]byte{"agent.log": []byte("agent " + a.p.id + " started\n")}
	for id, j := range a.p.jobs {
		out[id+".json"] = j.record()
		out[id+".log"] = slices.Clone(j.log)
	}
	return out
}

func (a *fakeAgent) Logs(ctx context.Context) ([]transport.FileInfo, error) {
	var out []transport.FileInfo
	err := a.call(ctx, Logs, func() error {
		for name, content := range a.logFiles() {
			native := a.p.dir + "/jobs/" + name
			if name == "agent.log" {
				native = a.p.dir + "/" + name
			}
			out = append(out, transport.FileInfo{Name: name, Native: native, Size: int64(len(content)), Mode: 0o600, ModTime: time.Now()})
		}
		slices.SortFunc(out, func(x, y transport.FileInfo) int { return strings.Compare(x.Name, y.Name) })
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (a *fakeAgent) Log(ctx context.Context, name string, w io.Writer) error {
	fault, err := a.enter(ctx, Log)
	if err != nil {
		return err
	}
	a.in.mu.Lock()
	err = a.reach(Log)
	content, ok := a.logFiles()[name]
	a.in.mu.Unlock()
	if err == nil && !ok {
		err = a.err(Log, fs.ErrNotExist, "no log "+name)
	}
	if err == nil {
		if fault.fails() && !fault.After {
			content = content[:min(int64(len(content)), fault.Bytes)]
		}
		if _, werr := w.Write(content); werr != nil {
			err = &agent.Error{Op: string(Log), Target: a.h.name, Err: werr}
		}
	}
	return a.leave(ctx, Log, fault, err)
}
