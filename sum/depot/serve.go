package depot

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"time"
)

// What the paths of offers and inboxes begin with.
const (
	offers  = "/p/"
	inboxes = "/s/"
)

func (d *Depot) handle(w http.ResponseWriter, r *http.Request) {
	ctx, log := r.Context(), d.opts.Logger
	if c, ok := ctx.Value(connKey{}).(*conn); ok {
		// One that is to be closed stays for half a second more, so that the client
		// can read the answer; it may go earlier where others want its place.
		defer d.conns.idle(c)
	}
	control := http.NewResponseController(w)
	if r.Body != http.NoBody {
		// Most requests should have none. The server discards it to reach the next
		// request, and must not wait for it for ever.
		_ = control.SetReadDeadline(time.Now().Add(headerTime))
	}
	from := remoteAddr(r)
	var refused []any // what is there, but not for this address
	if rest, ok := strings.CutPrefix(r.URL.Path, inboxes); ok {
		if in, rest := d.findInbox(rest); in != nil {
			if in.allow.allows(from) {
				in.receive(w, r, control, rest, from)
				return
			}
			refused = []any{"inbox", in.box.Name, "allowed", in.allow}
		}
	} else if o, rest := d.findOffer(r.URL.Path); o != nil {
		allow := o.allowed()
		if allow.allows(from) {
			o.fetch(w, r, control, rest)
			return
		}
		o.refuse(from)
		refused = []any{"file", o.name, "allowed", allow}
	}
	// The same answer for all: a scanner learns nothing.
	http.NotFound(w, r)
	if refused == nil {
		log.DebugContext(ctx, "depot: nothing there", "from", from)
	} else {
		log.WarnContext(ctx, "depot: refused an address that is not allowed", append(refused, "from", from)...)
	}
}

// findOffer returns the offer with a path and what follows its own: the key of
// Offer.files.
func (d *Depot) findOffer(p string) (o *Offer, rest string) {
	for i, slashes := 0, 0; i < len(p); i++ {
		if p[i] != '/' {
			continue
		}
		if slashes++; slashes == 4 { // "/p/token/name/"
			p, rest = p[:i], p[i:]
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.offers[p], rest
}

// findInbox returns the inbox with a path, of which it gets what follows
// inboxes, and what follows its own path.
func (d *Depot) findInbox(p string) (in *Intake, rest string) {
	token, rest, _ := strings.Cut(p, "/")
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.inboxes[token], rest
}

// fetch answers a request of an allowed address for something below the path of
// the offer.
func (o *Offer) fetch(w http.ResponseWriter, r *http.Request, control *http.ResponseController, rest string) {
	ctx, from := r.Context(), remoteAddr(r)
	it := o.files[rest]
	log := o.d.opts.Logger.With("from", from, "file", o.name+rest)
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		if it == nil {
			http.NotFound(w, r)
		} else {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		}
		log.DebugContext(ctx, "depot: method not allowed", "method", r.Method)
		return
	}
	o.once.Do(func() { close(o.requested) })
	if it == nil {
		http.NotFound(w, r)
		log.DebugContext(ctx, "depot: not on offer", "method", r.Method)
		return
	}
	start := time.Now()
	s := &sender{ResponseWriter: w, control: control, d: o.d, plain: r.TLS == nil, sent: &it.sent}
	err := it.serve(ctx, s, r)
	if err == nil && s.err == nil {
		// Else the server would do it when the connection counts as idle already and
		// may be closed to make room: a slow client would lose the end of the file.
		s.extend()
		s.err = control.Flush()
	}
	it.ended(err)
	log = log.With("range", r.Header.Get("Range"), "took", time.Since(start))
	switch {
	case err != nil:
		log.ErrorContext(ctx, "depot: payload not readable", "err", err)
	case s.err != nil:
		log.WarnContext(ctx, "depot: transfer broke off", "sent", s.total, "err", s.err)
	default:
		log.DebugContext(ctx, "depot: served", "method", r.Method, "status", s.status, "sent", s.total)
	}
}

// serve answers a request for the file. The error is one of the payload: one of
// the connection is in s.err.
func (it *item) serve(ctx context.Context, s *sender, r *http.Request) error {
	refuse := func(err error) error {
		http.Error(s, "payload not readable", http.StatusInternalServerError)
		return err
	}
	body, err := s.d.open(ctx, it.source())
	if scarce(err) {
		s.Header().Set("Retry-After", "10")
		s.Header().Set("Connection", "close") // its descriptor is wanted
		http.Error(s, "too many open files", http.StatusServiceUnavailable)
		return err
	} else if err != nil {
		return refuse(err)
	}
	defer s.d.starved.open.Add(-1)
	var guard *source
	// ServeContent reads several ranges on a goroutine that it does not wait for.
	several := strings.Contains(r.Header.Get("Range"), ",")
	if _, ok := body.(syscall.Conn); !ok || several {
		// Files stay bare, or they could not go out by sendfile.
		guard = &source{body: body}
		if several {
			// What the writer sees then are the parts with their heads.
			guard.sent, s.sent = s.sent, nil
		}
		body = guard
	}
	defer body.Close()
	size, err := body.Seek(0, io.SeekEnd)
	if err != nil {
		return refuse(err)
	}
	if size != it.file.Size {
		return refuse(fmt.Errorf("%w: it has %d bytes where its description says %d", ErrChanged, size, it.file.Size))
	}
	s.Header().Set("ETag", `"`+it.file.Digest()+`"`)
	s.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(s, r, "", time.Time{}, body)
	if guard != nil {
		if err := guard.failure(); err != nil {
			return err
		}
	}
	if s.readErr != nil {
		return s.readErr
	}
	if s.short {
		// The server closes the connection, so that the client sees it too.
		return fmt.Errorf("%w: it ended while it was sent: %w", ErrChanged, io.ErrUnexpectedEOF)
	}
	return nil
}
