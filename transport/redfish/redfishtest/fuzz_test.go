package redfishtest

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/stretchr/testify/require"
)

// ask has a server answer a request without the network, as its administrator.
func ask(s *Server, method, path string, body []byte, header http.Header) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "https://"+s.Addr()+"/", bytes.NewReader(body))
	r.URL.Path, r.Header = path, header.Clone()
	if r.Header == nil {
		r.Header = http.Header{}
	}
	if r.Header.Get("X-Auth-Token") == "" {
		r.SetBasicAuth(s.User(), s.Password())
	}
	w := httptest.NewRecorder()
	s.serve(w, r)
	return w
}

// quiet is a server with a pace at which fuzzing makes headway.
func quiet(t testing.TB, cfg Config) *Server {
	t.Helper()
	cfg.Pace, cfg.RequestLog, cfg.Repository = time.Nanosecond, 10, 1<<20
	cfg.DialContext = func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("nobody is there") }
	s, err := NewServer(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// whole fails for an answer that no client could read.
func whole(t *testing.T, w *httptest.ResponseRecorder) {
	t.Helper()
	if w.Code < 200 || w.Code > 599 || w.Code == http.StatusInternalServerError {
		t.Fatalf("the answer is %d %s", w.Code, w.Body)
	}
	if w.Body.Len() > 0 && !json.Valid(w.Body.Bytes()) {
		t.Fatalf("the answer is no JSON: %.200q", w.Body)
	}
}

// FuzzBody posts and patches anything to everything that takes it.
func FuzzBody(f *testing.F) {
	seeds := []string{
		`{}`, `[]`, `{"ResetType":"On"}`, `{"ImageURI":"http://127.0.0.1:1/x","Targets":["/redfish/v1/UpdateService/FirmwareInventory/1"],"UpdateTarget":true,"Section":1}`,
		`{"Name":"a","Command":"Wait","WaitTimeSeconds":1,"UpdatableBy":["Bmc"],"StartAfter":"2030-01-01T00:00:00Z","Expire":null}`,
		`{"Name":"s","IsRecovery":true,"Sequence":[{"Name":"a","Command":"ResetBmc"},{}]}`, `{"Destination":"http://127.0.0.1:1/","Context":"x"}`,
		`{"HttpPushUriTargets":[],"HttpPushUriTargetsBusy":true,"HttpPushUriOptions":{"HttpPushUriApplyTime":{"ApplyTime":"OnReset"}}}`,
		`{"UserName":"admin","Password":"x"}`, strings.Repeat(`{"a":`, 40) + "1" + strings.Repeat("}", 40),
	}
	servers := map[Profile]*Server{}
	where := map[Profile][]string{}
	for _, p := range Profiles() {
		servers[p] = quiet(f, Config{Profile: p, PushTargets: true})
		for path := range servers[p].actions() {
			where[p] = append(where[p], path)
		}
		where[p] = append(where[p], updatePath, "/redfish/v1/SessionService/Sessions", queuePath, setsPath, windowsPath, setsPath+"/"+nameID("s"), queuePath+"/x")
		slices.Sort(where[p])
	}
	for i, s := range seeds {
		for n := range where[ILO5] {
			f.Add(uint8(i), uint8(n), []byte(s))
		}
	}
	f.Fuzz(func(t *testing.T, which, n uint8, body []byte) {
		p := Profiles()[int(which)%len(Profiles())]
		s, path := servers[p], where[p][int(n)%len(where[p])]
		s.mu.Lock()
		s.down, s.faults = false, nil
		s.repo.queue, s.repo.sets, s.repo.windows = nil, nil, nil
		clear(s.sessions)
		for _, l := range s.events.listeners {
			l.stop()
		}
		s.events.listeners = nil
		s.tasks = nil
		s.mu.Unlock()
		for _, method := range []string{http.MethodPost, http.MethodPatch, http.MethodDelete} {
			whole(t, ask(s, method, path, body, http.Header{"Content-Type": {"application/json"}}))
		}
		if w := ask(s, http.MethodGet, updatePath, nil, nil); w.Code != http.StatusOK && p != ILO4 && w.Body.Len() > 0 {
			t.Fatalf("the update service is %d", w.Code)
		}
	})
}

// FuzzForm pushes anything as a form, to an iLO and to a Generic service.
func FuzzForm(f *testing.F) {
	const sep = "fuzz"
	form := func(names ...string) []byte {
		var b bytes.Buffer
		w := multipart.NewWriter(&b)
		_ = w.SetBoundary(sep)
		for i := 0; i+1 < len(names); i += 2 {
			part, _ := w.CreateFormFile(names[i], names[i])
			if names[i] == "sessionKey" || names[i] == "parameters" || names[i] == "UpdateParameters" {
				part, _ = w.CreateFormField(names[i])
			}
			_, _ = io.WriteString(part, names[i+1])
		}
		_ = w.Close()
		return b.Bytes()
	}
	image := string(content1(f, Image(ImageSpec{Targets: []string{"x"}, Version: "1"})))
	f.Add(form("sessionKey", "token", "parameters", `{"UpdateTarget":true,"Section":0,"ETag":"x"}`, "file", image))
	f.Add(form("sessionKey", "token", "parameters", `{"UpdateRepository":true}`, "compsig", `{"file":"file"}`, "file", "MZ"))
	f.Add(form("UpdateParameters", `{"Targets":["x"],"@Redfish.OperationApplyTime":"OnReset"}`, "UpdateFile", image))
	f.Add(form("UpdateParameters", "{"))
	ilo, generic := quiet(f, Config{Profile: ILO5}), quiet(f, Config{})
	f.Fuzz(func(t *testing.T, body []byte) {
		ilo.mu.Lock()
		ilo.sessions["token"] = &session{id: "1", token: "token", account: ilo.cfg.accounts()[0]}
		ilo.mu.Unlock()
		kind := "multipart/form-data; boundary=" + sep
		whole(t, ask(ilo, http.MethodPost, pushPath, body, http.Header{"Content-Type": {kind}, "X-Auth-Token": {"token"}, "Cookie": {"sessionKey=token"}}))
		whole(t, ask(generic, http.MethodPost, multipartPath, body, http.Header{"Content-Type": {kind}}))
		for _, s := range []*Server{ilo, generic} {
			if err := s.Idle(t.Context()); err != nil {
				t.Fatal(err)
			}
			if len(s.Flashes()) > 0 {
				t.Fatal("something was flashed that is for nothing here")
			}
		}
	})
}

// packageOf is a zip with a payload.json and an image.
func packageOf(t testing.TB, payload []byte, image transport.File) []byte {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for name, content := range map[string][]byte{"payload.json": payload, "a.bin": content1(t, image)} {
		w, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Store})
		require.NoError(t, err)
		_, err = w.Write(content)
		require.NoError(t, err)
	}
	require.NoError(t, z.Close())
	return b.Bytes()
}

// FuzzPayload reads anything as the payload.json of a package.
func FuzzPayload(f *testing.F) {
	image := Image(ImageSpec{Targets: []string{"x"}, Version: "1"})
	f.Add([]byte(`{"DeviceClass":"x","UpdatableBy":["Bmc"],"Devices":{"Device":[{"Target":"x","FirmwareImages":[{"FileName":"a.bin","DirectFlashOk":true}]}]}}`))
	f.Add([]byte(`{"Devices":{"Device":[{"FirmwareImages":[{"FileName":"payload.json"}]}]}}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		b := packageOf(t, payload, image)
		c := newChecker()
		defer c.discard()
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
		got := c.finish("x.fwpkg")
		if got.form != fwpkgForm {
			t.Fatalf("a package is %s", got.form)
		}
		for _, p := range got.images {
			if got.err == nil && p.Version != "1" {
				t.Fatal("an image that is not in it")
			}
		}
	})
}

// FuzzReadCapture serves anything that ReadCapture takes.
func FuzzReadCapture(f *testing.F) {
	f.Add(`{"version":1,"resources":{"/redfish/v1/":{"Systems":{"@odata.id":"/redfish/v1/Systems"}},"/redfish/v1/Systems":{"Members":[{"@odata.id":1},2]}}}`)
	f.Add(`{"version":1,"resources":{"/redfish/v1":{"Oem":{"Hpe":{"Manager":[{"ManagerType":"iLO 6"}]}},"Actions":{"#A.B":{"target":"/redfish/v1/X"}}}}}`)
	f.Add(`{"version":1,"resources":{"/redfish/v1/":{"Oem":{"Hp":{}}},"/redfish/v1/X/":{"Members":null}}}`)
	s := quiet(f, Config{})
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ReadCapture(strings.NewReader(text))
		if err != nil {
			return
		}
		s.mu.Lock()
		s.cfg.Capture, s.cfg.Profile = c, c.profile()
		s.mu.Unlock()
		if c.Resources == nil {
			t.Fatal("a capture without resources is none")
		}
		for path := range c.Resources {
			if w := ask(s, http.MethodGet, path, nil, nil); w.Code != http.StatusOK {
				t.Fatalf("%s is %d", path, w.Code)
			}
			whole(t, ask(s, http.MethodPost, path, []byte(text), nil))
		}
	})
}
