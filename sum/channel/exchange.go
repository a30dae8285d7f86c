package channel

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
)

const (
	soapPath = "/soap"
	wsdlPath = "/soap?wsdl"
	blobPath = "/blobs/"
	logPath  = "/logs/"

	soapType = "application/soap+xml; charset=utf-8"
	textType = "text/plain; charset=utf-8"
	wsdlType = "text/xml; charset=utf-8"
	blobType = "application/octet-stream"
)

// exchange is one request and its answer.
type exchange struct {
	s       *Server
	c       *serverConn
	w       http.ResponseWriter
	r       *http.Request
	ctl     *http.ResponseController
	auth    *auth  // nil until the header was parsed
	body    []byte // unless it is a piece of a blob
	foreign bool   // authenticated by TLS alone
}

// ServeHTTP answers requests on connections that Serve accepted. It cannot
// answer others: their keys are not known, so they are refused.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c, _ := r.Context().Value(connKey{}).(*serverConn)
	if run, _ := r.Context().Value(runKey{}).(*run); run == nil || run.s != s || c == nil || r.TLS == nil {
		http.Error(w, "not a connection of this server", http.StatusForbidden)
		return
	}
	c.table.begin(c)
	defer c.table.end(c)
	x := &exchange{s: s, c: c, w: w, r: r, ctl: http.NewResponseController(w)}
	if err := x.gate(); err != nil {
		level := slog.LevelWarn
		if x.auth != nil && x.auth.epoch == unknownEpoch {
			level = slog.LevelDebug // it asks for the epoch
		}
		s.logger().Log(r.Context(), level, "request refused", "remote", r.RemoteAddr, "code", faultOf(err).Code)
		x.refuse(err)
		return
	}
	x.route()
}

// gate is in front of every route. TLS has authenticated the connection; here
// the message is, before anything looks into it.
func (x *exchange) gate() error {
	headers := x.r.Header.Values(authHeader)
	if len(headers) == 0 {
		switch {
		case x.isWSDL():
			return nil
		case x.s.AllowForeign && x.r.Method == http.MethodPost && x.r.RequestURI == soapPath:
			x.foreign = true
			return x.readBody()
		}
		return &Fault{Code: CodeUnauthorized, Message: "the request has no " + authHeader + " header"}
	}
	if len(headers) > 1 {
		return fmt.Errorf("%w: more than one %s header", ErrMalformed, authHeader)
	}
	a, err := parseAuth(headers[0])
	if err != nil {
		return err
	}
	x.auth = &a
	if a.epoch != x.s.epoch {
		return &Fault{Code: CodeEpoch, Message: "the epoch is not that of this agent"}
	}
	digest := bodyOfBlob
	if !x.isUpload() {
		if err := x.readBody(); err != nil {
			return err
		}
		digest = bodyDigest(x.body)
	}
	if !equalMAC(a.mac, x.c.keys.macRequest(a, x.r.Method, x.r.RequestURI, x.r.Header, digest)) {
		return &Fault{Code: CodeBadMAC, Message: "the message authentication code is wrong"}
	}
	if !x.c.acceptReplay(a.seq) {
		return &Fault{Code: CodeReplay, Message: "the sequence number was used before"}
	}
	return nil
}

func (x *exchange) isWSDL() bool {
	return x.s.callbacks == nil && x.r.Method == http.MethodGet && strings.EqualFold(x.r.RequestURI, wsdlPath)
}

func (x *exchange) isUpload() bool {
	return x.r.Method == http.MethodPut && strings.HasPrefix(x.r.RequestURI, blobPath)
}

// readBody reads a small body whole.
func (x *exchange) readBody() error {
	if x.r.ContentLength > maxRequest {
		return &Fault{Code: CodeTooLarge, Message: "the request is larger than 1 MiB"}
	}
	x.ctl.SetReadDeadline(time.Now().Add(orDefault(x.s.StallTimeout, defaultStall)))
	defer x.ctl.SetReadDeadline(time.Time{})
	body, err := io.ReadAll(io.LimitReader(x.r.Body, maxRequest+1))
	if err != nil {
		return fmt.Errorf("%w: the body did not arrive", ErrMalformed)
	}
	if len(body) > maxRequest {
		return &Fault{Code: CodeTooLarge, Message: "the request is larger than 1 MiB"}
	}
	x.body = body
	return nil
}

func (x *exchange) route() {
	target := x.r.RequestURI
	switch {
	case x.isWSDL():
		x.reply(http.StatusOK, wsdlType, wsdlFor(x.r.Host))
	case x.r.Method == http.MethodPost && target == soapPath:
		x.soap()
	case x.r.Method == http.MethodHead && strings.HasPrefix(target, blobPath):
		x.blobOffset(target[len(blobPath):])
	case x.isUpload():
		x.blobAppend(target[len(blobPath):])
	case x.r.Method == http.MethodGet && strings.HasPrefix(target, logPath):
		x.readLog(target[len(logPath):])
	default:
		x.refuse(&Fault{Code: CodeNotFound, Message: "no such route"})
	}
}

// refuse answers with a fault: in an envelope where SOAP is spoken, else in the
// status, a header and plain text.
func (x *exchange) refuse(err error) {
	f := faultOf(err)
	code := f.Code
	if f.Retryable {
		code += ";retryable"
	}
	x.w.Header().Set(headerFault, code)
	if strings.HasPrefix(x.r.RequestURI, soapPath) {
		soapCode, status := soapCodeOf(err, f)
		x.reply(status, soapType, encodeFault(soapCode, f))
		return
	}
	x.reply(statusOf(f), textType, []byte(f.Message))
}

// statusOf is for the file routes; SOAP clients understand only 400 and 500.
func statusOf(f *Fault) int {
	switch f.Code {
	case CodeUnauthorized, CodeBadMAC, CodeReplay, CodeEpoch, CodeRefused:
		return http.StatusForbidden
	case CodeNotFound:
		return http.StatusNotFound
	case CodeOffset, CodeConflict:
		return http.StatusConflict
	case CodeDigest:
		return http.StatusUnprocessableEntity
	case CodeTooLarge:
		return http.StatusRequestEntityTooLarge
	case CodeUnsupported:
		return http.StatusNotImplemented
	case CodeBusy:
		return http.StatusServiceUnavailable
	}
	if f.receiver() {
		return http.StatusInternalServerError
	}
	return http.StatusBadRequest
}

// reply sends a whole answer, authenticated if the request named a nonce to bind
// it to. Headers that are to be bound must have been set.
func (x *exchange) reply(status int, contentType string, body []byte) {
	if x.r.Method == http.MethodHead {
		contentType, body = "", nil
	}
	h := x.w.Header()
	if contentType != "" {
		h.Set("Content-Type", contentType)
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if x.auth != nil {
		a := *x.auth
		a.epoch = x.s.epoch
		a.mac = x.c.keys.macResponse(a, status, h, bodyDigest(body))
		h.Set(authHeader, a.String())
	}
	stall := orDefault(x.s.StallTimeout, defaultStall)
	x.ctl.SetWriteDeadline(time.Now().Add(stall))
	defer x.ctl.SetWriteDeadline(time.Time{})
	x.w.WriteHeader(status)
	for piece := bytes.NewReader(body); piece.Len() > 0; {
		x.ctl.SetWriteDeadline(time.Now().Add(stall))
		if _, err := io.CopyN(x.w, piece, 64<<10); err != nil && err != io.EOF {
			return // the peer is gone, and nothing can be told to it
		}
	}
	// The answer is on its way before the connection counts as idle, or
	// Close could cut it off.
	x.ctl.Flush()
}

// soap executes one operation.
func (x *exchange) soap() {
	op, req, err := x.parseSOAP()
	if err != nil {
		x.s.logger().Warn("request refused", "remote", x.r.RemoteAddr, "code", faultOf(err).Code)
		x.refuse(err)
		return
	}
	began := time.Now()
	resp, err := x.call(op, req)
	var body []byte
	if err == nil {
		switch p := resp.(type) {
		case *InventoryResponse:
			fillEpoch(&p.Epoch, x.s.epoch)
		case *HeartbeatResponse:
			fillEpoch(&p.Epoch, x.s.epoch)
		}
		body, err = encodeEnvelope(op.name+"Response", resp)
	}
	if err == nil && len(body) > maxResponse {
		err = &Fault{Code: CodeTooLarge, Message: "the answer is larger than 16 MiB"}
	}
	log := x.s.logger().With("op", op.name, "remote", x.r.RemoteAddr, "foreign", x.foreign, "took", time.Since(began))
	if err != nil {
		log.Warn("operation failed", "code", faultOf(err).Code)
		x.refuse(err)
		return
	}
	log.Debug("operation done")
	x.reply(http.StatusOK, soapType, body)
}

// call turns a panic of the operation into a fault. What the panic says may hold
// what a message contained, so only its type and the stack are logged.
func (x *exchange) call(op operation, req any) (resp any, err error) {
	defer func() {
		if p := recover(); p != nil {
			x.s.logger().Error("operation panicked", "op", op.name, "type", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
			err = &Fault{Code: CodeInternal, Message: "the agent failed inside " + op.name}
		}
	}()
	return op.serve(x.r.Context(), x.c.party.handler, req)
}

func fillEpoch(have *string, epoch string) {
	if *have == "" {
		*have = epoch
	}
}

// parseSOAP finds the operation by the name of the element in the body, and
// nothing else: neither SOAPAction nor the action parameter is looked at.
func (x *exchange) parseSOAP() (op operation, req any, err error) {
	if !isSOAPType(x.r.Header.Get("Content-Type")) || x.r.Header.Get("Content-Encoding") != "" {
		return op, nil, fmt.Errorf("%w: the content type is not application/soap+xml in UTF-8", ErrMalformed)
	}
	name, err := scanEnvelope(x.body, func(name xml.Name) *schema {
		if op, ok := x.s.operations()[name.Local]; ok && name.Space == Namespace {
			return op.request
		}
		return nil
	})
	if err != nil {
		return op, nil, err
	}
	op = x.s.operations()[name.Local]
	if x.foreign && !op.foreign {
		return op, nil, &Fault{Code: CodeUnauthorized, Message: op.name + " needs message authentication"}
	}
	req = op.newRequest()
	if err := decodeBody(x.body, req); err != nil {
		return op, nil, err
	}
	if inv, ok := req.(*InventoryRequest); ok && x.foreign && len(inv.Probes) > 0 {
		return op, nil, &Fault{Code: CodeUnauthorized, Message: "Inventory with probes needs message authentication"}
	}
	if v, ok := req.(validator); ok {
		if err := v.validate(); err != nil {
			return op, nil, err
		}
	}
	return op, req, nil
}

// stallReader ends a body that stops arriving.
type stallReader struct {
	x     *exchange
	limit time.Duration
	left  int64
}

func (b *stallReader) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	b.x.ctl.SetReadDeadline(time.Now().Add(b.limit))
	n, err := b.x.r.Body.Read(p)
	if b.left -= int64(n); b.left > 0 && errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if b.left == 0 {
		// Storing and hashing may take longer than a stall may.
		b.x.ctl.SetReadDeadline(time.Time{})
	}
	return n, err
}
