package redfish

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

// listen has the service tell when there is news of an update, where it sends events
// (DSP0266, "Server-sent events"), until stop is called. What it tells is only that it is
// time to look: events get lost. It takes a connection of its own.
func (u *update) listen() (stop func()) {
	if u.s.opts.Connections < 2 || u.root.Events == "" {
		return func() {}
	}
	ctx, cancel := context.WithCancel(u.ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		u.hear(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}

// news says that it is time to look. It may be called from any goroutine.
func (u *update) news() {
	select {
	case u.wake <- struct{}{}:
	default:
	}
}

// hear reads events until ctx ends. A target that resets ends the stream.
func (u *update) hear(ctx context.Context) {
	var service struct {
		SSE text `json:"ServerSentEventUri"`
	}
	if u.read(ctx, "events", string(u.root.Events), &service) != nil {
		return
	}
	at, err := pathOf(string(service.SSE))
	if err != nil {
		return
	}
	for ctx.Err() == nil {
		err := u.s.stream(ctx, at, u.news)
		if errors.Is(err, errors.ErrUnsupported) {
			return
		}
		t := time.NewTimer(max(u.s.opts.PollInterval, time.Millisecond))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
	}
}

// stream reads a stream of events, and calls f for each, until it ends.
func (s *session) stream(ctx context.Context, path string, f func()) error {
	if !s.enter() {
		return errClosed
	}
	defer s.calls.Done()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(s.ctx, func() { cancel(context.Cause(s.ctx)) })
	defer stop()
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	s.mu.Lock()
	token := s.login.token
	s.mu.Unlock()
	trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		if l, ok := info.Conn.(*line); ok {
			l.busy.Store(nil) // a stream may be still for long
		}
	}}
	base := &url.URL{Scheme: "https", Host: s.host}
	at, err := base.Parse(path)
	if err != nil || at.Host != s.host {
		return errors.ErrUnsupported
	}
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, trace), http.MethodGet, at.String(), nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "text/event-stream")
	req.Header.Set("OData-Version", "4.0")
	req.Header.Set("User-Agent", "roundsman")
	req.Header.Set("X-Auth-Token", token)
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	switch {
	case resp.StatusCode == http.StatusUnauthorized, resp.StatusCode >= 500:
		return &transport.Error{Kind: transport.ErrBusy, Err: &statusError{status: resp.StatusCode}}
	case resp.StatusCode != http.StatusOK, kind != "text/event-stream":
		return fmt.Errorf("%w: no stream of events, but %q", errors.ErrUnsupported, clip(kind, 100))
	}
	lines := bufio.NewReader(resp.Body)
	for start := true; ; {
		text, more, err := lines.ReadLine()
		if err != nil {
			return err
		}
		if start && bytes.HasPrefix(text, []byte("data:")) {
			f()
		}
		start = !more
	}
}
