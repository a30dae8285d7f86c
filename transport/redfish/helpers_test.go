package redfish_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/redfish"
	"github.com/stretchr/testify/require"
)

// obj is a JSON object.
type obj = map[string]any

func ref(uri string) obj { return obj{"@odata.id": uri} }

// service is a small Redfish service: a tree of resources with sessions.
type service struct {
	*httptest.Server
	mu       sync.Mutex
	tree     map[string]any
	handlers map[string]http.HandlerFunc // "POST /path"
	sessions map[string]bool
	logins   int
	logouts  int
	requests []string
	limit    int  // sessions; 0: any number
	long     bool // the names of sessions are no numbers that are given away again
	conns    map[net.Conn]bool
	most     int // connections at a time
}

const (
	user     = "ops"
	password = "correct horse"
)

func newService(t testing.TB, change func(*httptest.Server)) *service {
	s := &service{tree: map[string]any{}, handlers: map[string]http.HandlerFunc{}, sessions: map[string]bool{}, conns: map[net.Conn]bool{}}
	s.Server = httptest.NewUnstartedServer(s)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Config.ConnState = func(c net.Conn, state http.ConnState) {
		s.mu.Lock()
		defer s.mu.Unlock()
		switch state {
		case http.StateNew:
			s.conns[c] = true
			s.most = max(s.most, len(s.conns))
		case http.StateClosed, http.StateHijacked:
			delete(s.conns, c)
		}
	}
	if change != nil {
		change(s.Server)
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	s.set("/redfish/v1", obj{"@odata.type": "#ServiceRoot.v1_5_0.ServiceRoot", "RedfishVersion": "1.6.0", "Vendor": "Example", "UUID": "u-1",
		"Systems": ref("/redfish/v1/Systems"), "Managers": ref("/redfish/v1/Managers"), "Chassis": ref("/redfish/v1/Chassis"),
		"UpdateService": ref("/redfish/v1/UpdateService"), "Links": obj{"Sessions": ref("/redfish/v1/SessionService/Sessions")}})
	s.collection("/redfish/v1/Systems", "/redfish/v1/Systems/1")
	s.set("/redfish/v1/Systems/1", obj{"@odata.id": "/redfish/v1/Systems/1", "Id": "1", "Name": "System", "HostName": "db1",
		"Manufacturer": "Example", "Model": "Box 1", "SerialNumber": "S1", "UUID": "sys-1", "BiosVersion": "1.0"})
	s.collection("/redfish/v1/Managers", "/redfish/v1/Managers/1")
	s.set("/redfish/v1/Managers/1", obj{"@odata.id": "/redfish/v1/Managers/1", "Id": "1", "Name": "Manager", "FirmwareVersion": "1.00"})
	s.collection("/redfish/v1/Chassis")
	s.set("/redfish/v1/UpdateService", obj{"@odata.id": "/redfish/v1/UpdateService", "FirmwareInventory": ref("/redfish/v1/UpdateService/FirmwareInventory")})
	s.collection("/redfish/v1/UpdateService/FirmwareInventory", "/redfish/v1/UpdateService/FirmwareInventory/BMC")
	s.set("/redfish/v1/UpdateService/FirmwareInventory/BMC", obj{"@odata.id": "/redfish/v1/UpdateService/FirmwareInventory/BMC",
		"Id": "BMC", "Name": "BMC Firmware", "Version": "1.00", "Updateable": true})
	return s
}

func (s *service) set(path string, v any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tree[strings.TrimSuffix(path, "/")] = v
}

// edit changes a resource.
func (s *service) edit(path string, f func(obj)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s.tree[path].(obj))
}

func (s *service) collection(path string, members ...string) {
	refs := []any{}
	for _, m := range members {
		refs = append(refs, ref(m))
	}
	s.set(path, obj{"@odata.id": path, "Name": "Collection", "Members": refs, "Members@odata.count": len(refs)})
}

func (s *service) handle(pattern string, h http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handlers[pattern] = h
}

func (s *service) seen(prefix string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, r := range s.requests {
		if strings.HasPrefix(r, prefix) {
			n++
		}
	}
	return n
}

// forget ends all sessions, as a reset does.
func (s *service) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.sessions)
}

func fault(w http.ResponseWriter, status int, id string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(obj{"error": obj{"code": "iLO.0.10.ExtendedInfo", "message": "See @Message.ExtendedInfo",
		"@Message.ExtendedInfo": []obj{{"MessageId": id}}}})
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimSuffix(r.URL.Path, "/")
	s.mu.Lock()
	s.requests = append(s.requests, r.Method+" "+r.URL.RequestURI())
	h := s.handlers[r.Method+" "+path]
	known := s.sessions[r.Header.Get("X-Auth-Token")]
	v, found := s.tree[path]
	data, _ := json.Marshal(v)
	s.mu.Unlock()
	const sessions = "/redfish/v1/SessionService/Sessions"
	switch {
	case h != nil && (known || path == "/redfish/v1" || path == sessions):
		h(w, r)
	case r.Method == http.MethodPost && path == sessions:
		s.logIn(w, r)
	case path != "/redfish/v1" && !known:
		fault(w, http.StatusUnauthorized, "Base.1.4.NoValidSession")
	case r.Method == http.MethodDelete && strings.HasPrefix(path, sessions+"/"):
		s.mu.Lock()
		s.logouts++
		delete(s.sessions, path[strings.LastIndexByte(path, '/')+1:])
		s.mu.Unlock()
	case r.Method == http.MethodGet && found:
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(data)
	default:
		fault(w, http.StatusNotFound, "Base.1.4.ResourceMissingAtURI")
	}
}

func (s *service) logIn(w http.ResponseWriter, r *http.Request) {
	var in struct{ UserName, Password string }
	_ = json.NewDecoder(r.Body).Decode(&in)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case in.UserName != user || in.Password != password:
		fault(w, http.StatusUnauthorized, "Base.1.4.UnauthorizedLoginAttempt")
	case s.limit > 0 && len(s.sessions) >= s.limit:
		fault(w, http.StatusServiceUnavailable, "Base.1.4.SessionLimitExceeded")
	default:
		s.logins++
		token := fmt.Sprintf("token-%d", s.logins)
		if s.long {
			token = "the-only-" + token
		}
		s.sessions[token] = true
		w.Header().Set("X-Auth-Token", token)
		w.Header().Set("Location", "https://the-name-it-gives-itself/redfish/v1/SessionService/Sessions/"+token)
		w.WriteHeader(http.StatusCreated)
	}
}

// open is how many sessions there are.
func (s *service) open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions)
}

// pin is the digest of the service's key.
func (s *service) pin() [sha256.Size]byte {
	return sha256.Sum256(s.Certificate().RawSubjectPublicKeyInfo)
}

func (s *service) endpoint() transport.Endpoint {
	return transport.Endpoint{Address: s.Listener.Addr().String(),
		Credentials: transport.Credentials{User: user, Password: transport.NewSecret(password)},
		Trust:       transport.Trust{SPKI: [][sha256.Size]byte{s.pin()}},
		Options:     quick()}
}

// quick are options with short times between two looks. The others are long: whatever is
// to come must come in time on a machine with much else to do.
func quick() redfish.Options {
	return redfish.Options{PollInterval: 2 * time.Millisecond, SettleTimeout: 20 * time.Second, ResetTimeout: 20 * time.Second}
}

// hasty are options for tests of what never comes.
func hasty() redfish.Options {
	o := quick()
	o.SettleTimeout = 50 * time.Millisecond
	return o
}

func dial(t testing.TB, ep transport.Endpoint) transport.Conn {
	conn, err := (&redfish.Transport{}).Dial(t.Context(), ep)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close(context.WithoutCancel(t.Context()))) })
	return conn
}

// refused dials and wants an error.
func refused(t testing.TB, ep transport.Endpoint, kind error) *transport.Error {
	conn, err := (&redfish.Transport{}).Dial(t.Context(), ep)
	require.ErrorIs(t, err, kind)
	require.Nil(t, conn)
	var te *transport.Error
	require.ErrorAs(t, err, &te)
	require.Equal(t, ep.Address, te.Target)
	require.NotContains(t, err.Error(), password)
	return te
}

// image is a payload of one small file, for the management processor of a service.
func image(version string) transport.Payload {
	return transport.Payload{Name: "bmc", Version: version, Files: []transport.File{transport.BytesFile("a.bin", []byte("image"))}}
}

// pusher makes a service take pushes to /push, of which the first ones may be lost: they
// have no effect, and no answer. The count is of those that had one.
func (s *service) pusher(lost int) (taken *int) {
	taken = new(int)
	s.edit("/redfish/v1/UpdateService", func(o obj) { o["HttpPushUri"] = "/push" })
	s.handle("POST /push", func(_ http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		if lost--; lost >= 0 {
			panic(http.ErrAbortHandler)
		}
		*taken++
		s.edit("/redfish/v1/UpdateService/FirmwareInventory/BMC", func(o obj) { o["Version"] = "2.00" })
	})
	return taken
}

// asILO makes a service an iLO 5 in the given state of its update service.
func (s *service) asILO(state obj) {
	s.edit("/redfish/v1", func(o obj) { o["Oem"] = obj{"Hpe": obj{"Manager": []obj{{"ManagerType": "iLO 5"}}}} })
	s.edit("/redfish/v1/UpdateService", func(o obj) { o["Oem"] = obj{"Hpe": state} })
}

// recorder keeps the states of an update.
type recorder struct{ states []transport.State }

func (r *recorder) keep(_ context.Context, s transport.State) error {
	r.states = append(r.states, s)
	return nil
}

func (r *recorder) last() transport.State { return r.states[len(r.states)-1] }

// sent is the state in which a manager is that dies with the last byte.
func (r *recorder) sent(t testing.TB) *transport.State {
	for _, s := range r.states {
		if s.Sent {
			return &s
		}
	}
	require.Fail(t, "no state says that the request may have been sent")
	return nil
}

func drain(r io.Reader) { _, _ = io.Copy(io.Discard, r) }

func copyAndClose(to, from net.Conn) (int64, error) {
	defer to.Close()
	return io.Copy(to, from)
}
