package redfishtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"hash"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
)

// upload is a component that comes in, and what is to be done with it.
type upload struct {
	Repository bool   `json:"UpdateRepository"`
	Target     bool   `json:"UpdateTarget"`
	Recovery   bool   `json:"UpdateRecoverySet"`
	TPM        bool   `json:"TPMOverride"`
	TPMFlag    bool   `json:"TPMOverrideFlag"`
	Section    int    `json:"Section"`
	ETag       string `json:"ETag"`
	OtherETag  string `json:"UploadCurrentEtag"`

	name    string
	targets []string
	compsig []byte
}

// push is the upload to HttpPushUri. iLO says little of what is wrong with one.
func (s *Server) push(x *exchange, r *http.Request, a Account, session bool) {
	empty := func() {
		drain(r)
		x.WriteHeader(http.StatusBadRequest)
	}
	kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	cookie, cookieErr := r.Cookie("sessionKey")
	if !session || cookieErr != nil || cookie.Value != r.Header.Get("X-Auth-Token") ||
		err != nil || kind != "multipart/form-data" || params["boundary"] == "" {
		empty()
		return
	}
	if a.Role != Administrator && a.Role != NoRecovery {
		drain(r)
		s.refuse(x, http.StatusForbidden, "InsufficientPrivilege")
		return
	}
	s.mu.Lock()
	err = s.begin(r)
	s.mu.Unlock()
	if err != nil {
		drain(r)
		s.fail(x, err)
		return
	}
	// Without parameters the image is flashed and not kept.
	u := upload{Target: true}
	in, err := s.parts(multipart.NewReader(r.Body, params["boundary"]), r, &u, cookie.Value, a)
	if err != nil {
		if in != nil {
			in.cut(s)
			in.discard()
		}
		s.release()
		if m, ok := err.(*message); ok {
			drain(r)
			s.fail(x, m)
			return
		}
		empty()
		return
	}
	s.launch(nil, func(ctx context.Context) error {
		defer in.discard()
		return s.take(ctx, &u, in)
	})
	s.refuse(x, http.StatusOK, "Success")
}

// parts reads the parts of an upload, which must come in their order: sessionKey,
// parameters if there are any, compsig if there is one, and the file last.
func (s *Server) parts(m *multipart.Reader, r *http.Request, u *upload, token string, a Account) (*intake, error) {
	part, err := m.NextRawPart()
	if err != nil || part.FormName() != "sessionKey" {
		return nil, io.ErrUnexpectedEOF
	}
	key, err := io.ReadAll(io.LimitReader(part, 1024))
	if err != nil || string(bytes.TrimSpace(key)) != token {
		return nil, io.ErrUnexpectedEOF
	}
	if part, err = m.NextRawPart(); err == nil && part.FormName() == "parameters" {
		b, rerr := io.ReadAll(io.LimitReader(part, jsonSize+1))
		if _, bad := parseObject(b); rerr != nil || bad != nil {
			return nil, io.ErrUnexpectedEOF
		}
		*u = upload{}
		if json.Unmarshal(b, u) != nil {
			return nil, io.ErrUnexpectedEOF
		}
		u.ETag = s.cfg.Mark.of(*u)
		part, err = m.NextRawPart()
	}
	if err == nil && part.FormName() == "compsig" {
		var b limited
		if _, err := io.Copy(&b, part); err != nil {
			return nil, err
		}
		u.compsig = b.Bytes()
		part, err = m.NextRawPart()
	}
	if err != nil || part.FileName() == "" || part.FormName() == "sessionKey" || part.FormName() == "parameters" || part.FormName() == "compsig" {
		return nil, io.ErrUnexpectedEOF
	}
	u.name = part.FileName()
	if u.Target {
		if err := s.tpm(r, u.TPM || u.TPMFlag); err != nil {
			return nil, err
		}
	}
	if err := s.mayUpload(*u, a); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.flash.etag = u.ETag
	s.mu.Unlock()
	in, err := s.newIntake(u)
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(in, part); err != nil {
		return in, err
	}
	if _, err := m.NextRawPart(); err != io.EOF {
		return in, io.ErrUnexpectedEOF
	}
	return in, nil
}

// intake receives one section of a component, which may be the only one.
type intake struct {
	*checker
	sig     *compsig
	section hash.Hash // of this section, if there is a signature
	size    int64     // of this section
	shared  bool      // the checker belongs to a component that is not complete
	before  received  // what it had when this section began
}

func (i *intake) Write(p []byte) (int, error) {
	if i.section != nil {
		_, _ = i.section.Write(p)
	}
	i.size += int64(len(p))
	return i.checker.Write(p)
}

func (i *intake) discard() {
	if i.checker != nil && !i.shared {
		i.checker.discard()
	}
}

// cut undoes a section that has not come to its end, so that it can be sent again.
func (i *intake) cut(s *Server) {
	if !i.shared {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.faultLocked(ForgetsSections, nil) != nil || i.checker.undo(i.before) != nil {
		s.repo.dropPartial()
	}
}

// partial is a component of which not all sections have come.
type partial struct {
	name string
	next int
	c    *checker
}

// newIntake begins to receive. What a section belongs to must have come before.
func (s *Server) newIntake(u *upload) (*intake, error) {
	in := &intake{}
	if u.compsig != nil {
		sig, err := readCompsig(u.compsig)
		if err != nil {
			return nil, err
		}
		if sig.Section != u.Section || sig.File != u.name {
			return nil, bad("UpdateSignatureValidationFailed")
		}
		in.sig, in.section = &sig, sha256.New()
	} else if u.Section > 0 {
		return nil, bad("UpdateInvalidFile")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.repo.partial
	if u.Section > 0 {
		if p == nil || p.name != u.name || p.next != u.Section {
			return nil, bad("UpdateInvalidFile")
		}
		in.checker, in.shared = p.c, true
	} else {
		s.repo.dropPartial()
		in.checker = newChecker()
		if in.sig != nil && in.sig.Sections > 1 {
			in.shared = true
			s.repo.partial = &partial{name: u.name, c: in.checker}
		}
	}
	if in.shared {
		in.before = in.checker.received()
	}
	return in, nil
}

// takesPackages reports whether an iLO takes a .fwpkg as a whole. To an iLO 5 before
// 2.30 HPE's client sends the images that are in it.
func (s *Server) takesPackages() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cfg.Profile != ILO5 || compareVersions(s.firmware[0].Version, "2.30") >= 0
}

// take verifies what has come in, keeps it and writes it, as the upload wants it.
func (s *Server) take(ctx context.Context, u *upload, in *intake) error {
	s.say("Verifying", 0)
	if in.sig != nil {
		ok := in.size == in.sig.Size && bytes.Equal(in.section.Sum(nil), in.sig.SHA256)
		more := in.sig.Section+1 < in.sig.Sections
		s.mu.Lock()
		if p := s.repo.partial; p != nil && (!ok || !more) {
			s.repo.partial = nil
			in.shared = false // the caller discards it
		} else if p != nil {
			p.next++
		}
		s.mu.Unlock()
		if !ok || s.fault(BadSignature, nil) != nil {
			return bad("UpdateSignatureValidationFailed")
		}
		if more {
			return s.step(ctx, 1)
		}
	}
	c := in.finish(u.name)
	if c.form == fwpkgForm && !s.takesPackages() {
		return bad("UpdateInvalidFile")
	}
	if c.component() && in.sig == nil {
		return bad("UpdateSignatureValidationFailed")
	}
	if err := s.verify(ctx, c); err != nil {
		return err
	}
	// What iLO cannot write itself is kept, whatever was asked; what fits nothing
	// cannot be written.
	fits, direct := false, false
	s.mu.Lock()
	for _, p := range c.images {
		for _, f := range s.firmware {
			fits = fits || f.takes(p.meta)
			direct = direct || p.direct && f.takes(p.meta) && f.by("Bmc")
		}
	}
	s.mu.Unlock()
	if u.Target && len(c.images) > 0 && !fits {
		return bad("UpdateInvalidFile")
	}
	if u.Repository || u.Recovery || !direct {
		s.say("Writing", 0)
		if err := s.step(ctx, 1); err != nil {
			return err
		}
		if err := s.store(c, u.Recovery); err != nil {
			return err
		}
	}
	if u.Target && direct {
		return s.write(ctx, c, "Bmc", u.targets)
	}
	return nil
}
