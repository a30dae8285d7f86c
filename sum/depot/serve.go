package depot

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"time"
)

func (d *Depot) handle(w http.ResponseWriter, r *http.Request) {
	ctx, log := r.Context(), d.opts.Logger
	control := http.NewResponseController(w)
	if r.Body != http.NoBody {
		// Nothing here takes one. The server discards it to reach the next request,
		// and must not wait for it for ever.
		_ = control.SetReadDeadline(time.Now().Add(headerTime))
	}
	from := remoteAddr(r)
	d.mu.Lock()
	o := d.offers[r.URL.Path]
	d.mu.Unlock()
	if o == nil || !o.allows(from) {
		// The same answer for both: a scanner learns nothing.
		http.NotFound(w, r)
		if o == nil {
			log.DebugContext(ctx, "depot: no such offer", "from", from)
		} else {
			log.WarnContext(ctx, "depot: refused an address that may not fetch this file", "from", from, "file", o.file.Name, "allowed", o.allow)
		}
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		log.DebugContext(ctx, "depot: method not allowed", "from", from, "file", o.file.Name, "method", r.Method)
		return
	}
	o.once.Do(func() { close(o.requested) })
	start := time.Now()
	s := &sender{ResponseWriter: w, control: control, stall: d.opts.Stall, sent: &o.sent}
	err := o.serve(ctx, s, r)
	o.ended(err)
	log = log.With("from", from, "file", o.file.Name, "range", r.Header.Get("Range"), "took", time.Since(start))
	switch {
	case err != nil:
		log.ErrorContext(ctx, "depot: payload not readable", "err", err)
	case s.err != nil:
		log.WarnContext(ctx, "depot: transfer broke off", "sent", s.total, "err", s.err)
	default:
		log.DebugContext(ctx, "depot: served", "method", r.Method, "status", s.status, "sent", s.total)
	}
}

// serve answers a request for the offer. The error is one of the payload: one of
// the connection is in s.err.
func (o *Offer) serve(ctx context.Context, s *sender, r *http.Request) error {
	refuse := func(err error) error {
		http.Error(s, "payload not readable", http.StatusInternalServerError)
		return err
	}
	body, err := o.file.Open(ctx)
	if err != nil {
		return refuse(err)
	}
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
	if size != o.file.Size {
		return refuse(fmt.Errorf("%w: it has %d bytes where its description says %d", ErrChanged, size, o.file.Size))
	}
	s.Header().Set("ETag", `"`+o.file.Digest()+`"`)
	s.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(s, r, "", time.Time{}, body)
	if guard != nil {
		if err := guard.failure(); err != nil {
			return err
		}
	}
	if s.short {
		// The server closes the connection, so that the client sees it too.
		return fmt.Errorf("%w: it ended while it was sent: %w", ErrChanged, io.ErrUnexpectedEOF)
	}
	return nil
}

// remoteAddr returns the address of the client in the form that allow-lists have.
func remoteAddr(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{} // is in no prefix
	}
	return ap.Addr().Unmap().WithZone("")
}
