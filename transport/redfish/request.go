package redfish

import (
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/roundsman-go/roundsman/transport"
)

// markOf is what an iLO shows of the upload of a section that it is at work on.
func (u *update) markOf(part int) string {
	if u.data.Queue == nil && u.cargo.sections() == 1 {
		return u.data.Tag
	}
	return u.data.Tag + "-" + strconv.Itoa(part)
}

// request makes the request of the way.
func (u *update) request(offers *offers) (request, *pushed, error) {
	var none request
	if u.data.Queue != nil {
		r, err := u.queueRequest()
		return r, nil, err
	}
	to, err := pathOf(u.to(u.data.Way, &u.conn.update))
	if err != nil {
		return none, nil, u.fail(transport.ErrProtocol, err, "")
	}
	if u.data.Way.pulls() {
		r, err := jsonRequest("update", http.MethodPost, to, u.pullBody(offers.url))
		r.slow = true // some answer when all is done
		return r, nil, err
	}
	before := u.phase
	return u.pushRequest(to, u.data.Part, func(sent bool) error {
		if sent {
			return u.checkpoint(phaseSend, true)
		}
		return u.checkpoint(before, false)
	})
}

// pushRequest makes a push of one section, or of all there is. keep is called before its
// last byte is handed out, and before it is sent anew.
func (u *update) pushRequest(to string, n int, keep func(sent bool) error) (request, *pushed, error) {
	var none request
	p := &pushed{u: u, n: n, sec: section{file: u.cargo.file, len: u.cargo.file.Size}, keep: keep}
	if u.cargo.sections() > 1 {
		p.sec.off = int64(n) * sectionSize
		p.sec.len = min(sectionSize, u.cargo.file.Size-p.sec.off)
	}
	if len(u.cargo.compsig) > 0 {
		var err error
		if p.sig, err = readSmall(u.ctx, u.cargo.compsig[n]); err != nil {
			return none, nil, u.invalid(err)
		}
		p.sigName = baseName(u.cargo.compsig[n])
	}
	sep := boundary()
	r := request{op: "update", method: http.MethodPost, path: to, stream: true, slow: true,
		ctype: mime.FormatMediaType("multipart/form-data", map[string]string{"boundary": sep})}
	if u.data.Way == WayHTTPPush {
		r.ctype = "application/octet-stream"
	}
	if u.formILO() {
		r.sign = func(h http.Header, token string) { h.Set("Cookie", "sessionKey="+token) }
	}
	r.body = func(token string) (io.ReadCloser, int64, error) { return p.open(sep, token) }
	return r, p, nil
}

// formILO reports whether pushes have the form of an iLO.
func (u *update) formILO() bool { return u.data.Way == WayHPEPush || u.data.Queue != nil }

// pushed is what is pushed by one request.
type pushed struct {
	u       *update
	n       int // of the section
	sec     section
	sig     []byte
	sigName string
	keep    func(sent bool) error

	mu    sync.Mutex // the body is read by another goroutine, which may outlive the request
	ended bool
	whole bool // the last byte was handed out
}

// last is called before the last byte is handed out: from then on the target may have all.
func (p *pushed) last() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return errClosed
	}
	if !p.whole {
		if err := p.keep(true); err != nil {
			return err
		}
		p.whole = true
	}
	return nil
}

// end is called when the request is over, and reports whether the target may have got all
// of it. Nothing is sent or told afterwards.
func (p *pushed) end() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	return p.whole
}

func (p *pushed) sent(done int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.ended {
		p.u.progress("upload", done, p.u.cargo.file.Size, "")
	}
}

func (p *pushed) open(sep, token string) (io.ReadCloser, int64, error) {
	u := p.u
	p.mu.Lock()
	again := p.whole
	p.whole = false
	p.mu.Unlock()
	if again { // it was refused, as by 401, and goes once more
		if err := p.keep(false); err != nil {
			return nil, 0, err
		}
	}
	var parts []part
	file := part{name: "file", file: baseName(p.sec.file), ctype: "application/octet-stream", section: &p.sec}
	switch {
	case u.data.Way == WayHTTPPush:
		b, err := rawBody(u.ctx, p.sec, p.sent, p.last)
		if err != nil {
			return nil, 0, err
		}
		return b, b.length, nil
	case u.data.Way == WayMultipart:
		file.name = "UpdateFile"
		params, err := json.Marshal(u.updateParameters())
		if err != nil {
			return nil, 0, err
		}
		parts = []part{{name: "UpdateParameters", ctype: "application/json", data: params}, file}
	case u.formILO():
		params, err := json.Marshal(u.uploadParameters(p.n))
		if err != nil {
			return nil, 0, err
		}
		parts = []part{{name: "sessionKey", data: []byte(token)}, {name: "parameters", data: params}}
		if p.sig != nil {
			parts = append(parts, part{name: "compsig", file: p.sigName, ctype: "application/octet-stream", data: p.sig})
		}
		parts = append(parts, file)
	default:
		return nil, 0, fmt.Errorf("%s is no push", u.data.Way)
	}
	b, err := newBody(u.ctx, sep, parts, p.sent, p.last)
	if err != nil {
		return nil, 0, err
	}
	return b, b.length, nil
}

// updateParameters is the first part of a multipart push.
func (u *update) updateParameters() map[string]any {
	p := map[string]any{"Targets": append([]string{}, u.data.Targets...)}
	if u.conn.update.immediate() {
		p["@Redfish.OperationApplyTime"] = "Immediate"
	}
	return p
}

// uploadParameters is the part "parameters" of a push to an iLO. Its mark goes under the
// name that HPE documents and under the one that HPE's client sends.
func (u *update) uploadParameters(n int) map[string]any {
	mark := u.markOf(n)
	p := map[string]any{"UpdateRepository": u.data.Queue != nil, "UpdateTarget": u.data.Queue == nil, "ETag": mark, "UploadCurrentEtag": mark,
		"Section": n, "UpdateRecoverySet": u.s.opts.RecoverySet}
	if u.s.opts.TPMOverride {
		p["TPMOverride"] = true
	}
	return p
}

// pullBody is the body of the action that has the target fetch.
func (u *update) pullBody(uri string) map[string]any {
	var b map[string]any
	switch u.data.Way {
	case WayAddFromURI:
		b = map[string]any{"ImageURI": uri, "ComponentFileName": baseName(u.cargo.file), "UpdateRepository": false, "UpdateTarget": true}
		if u.s.opts.TPMOverride {
			b["TPMOverrideFlag"] = true
		}
	case WayInstallFromURI:
		return map[string]any{"FirmwareURI": uri, "TPMOverrideFlag": u.s.opts.TPMOverride}
	case WayUpdateAll:
		return map[string]any{"ImageURI": uri, "Reinstall": u.opts.Rewrite, "ExcludeNparFw": false}
	default:
		b = map[string]any{"ImageURI": uri}
		if u.profile == ProfileGeneric {
			scheme, _, _ := strings.Cut(uri, ":")
			b["TransferProtocol"] = strings.ToUpper(scheme)
		}
	}
	if len(u.data.Targets) > 0 {
		b["Targets"] = u.data.Targets
	}
	return b
}
