package redfish_test

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/stretchr/testify/require"
)

const sectionBytes = 32 << 20

// sectioned is an iLO 5 that takes a component of three sections.
type sectioned struct {
	*service
	sections []int
	sum      hash.Hash
	// after is called when a section has come, and may refuse to answer.
	after func(n int)
}

func newSectioned(t testing.TB) *sectioned {
	s := &sectioned{service: newService(t, nil), sum: sha256.New(), after: func(int) {}}
	s.asILO(obj{"State": "Idle"})
	s.edit("/redfish/v1/UpdateService", func(o obj) { o["HttpPushUri"] = "/cgi-bin/uploadFile" })
	s.handle("POST /cgi-bin/uploadFile", func(w http.ResponseWriter, r *http.Request) {
		m, err := r.MultipartReader()
		if err != nil {
			return
		}
		var names []string
		var params struct {
			Section int
			ETag    string
		}
		for {
			p, err := m.NextRawPart()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return
			}
			names = append(names, p.FormName())
			switch p.FormName() {
			case "parameters":
				_ = json.NewDecoder(p).Decode(&params)
			case "file":
				_, _ = io.Copy(s.sum, p)
			case "compsig":
				b := bytes.Buffer{}
				_, _ = b.ReadFrom(p)
				names = append(names, b.String())
			}
		}
		s.sections = append(s.sections, params.Section)
		want := []string{"sessionKey", "parameters", "compsig", fmt.Sprintf("sig %d", params.Section+1), "file"}
		if strings.Join(names, ",") != strings.Join(want, ",") || r.Header.Get("Cookie") != "sessionKey="+r.Header.Get("X-Auth-Token") {
			fault(w, http.StatusBadRequest, "iLO.2.14.UpdateInvalidFile")
			return
		}
		s.asILO(obj{"State": "Complete", "UploadCurrentEtag": params.ETag, "Result": obj{"MessageId": "iLO.2.14.Success"}})
		if params.Section == 2 {
			s.edit("/redfish/v1/UpdateService/FirmwareInventory/BMC", func(o obj) { o["Version"] = "2.00" })
		}
		s.after(params.Section)
	})
	return s
}

func sectionPayload() (transport.Payload, []byte) {
	content := bytes.Repeat([]byte("0123456789abcdef"), (2*sectionBytes+1000)/16)
	return transport.Payload{Name: "bmc", Version: "2.00", Files: []transport.File{transport.BytesFile("fw.bin", content),
		transport.BytesFile("fw_part2.compsig", []byte("sig 2")), transport.BytesFile("fw_part1.compsig", []byte("sig 1")), transport.BytesFile("fw_part3.compsig", []byte("sig 3"))}}, content
}

// Large components with signatures of their own go in sections.
func TestSections(t *testing.T) {
	s := newSectioned(t)
	p, content := sectionPayload()
	conn := dial(t, s.endpoint())
	last := p.Files[3]
	p.Files = p.Files[:3]
	_, err := transport.Update(t.Context(), conn, p, transport.UpdateOptions{})
	require.ErrorIs(t, err, transport.ErrInvalid)
	require.ErrorContains(t, err, "fw_part3.compsig")
	p.Files = append(p.Files, last)
	var phases []string
	res, err := transport.Update(t.Context(), conn, p, transport.UpdateOptions{Checkpoint: func(ctx context.Context, st transport.State) error {
		phases = append(phases, st.Phase)
		require.Equal(t, st.Phase == "send", st.Sent)
		_, bounded := ctx.Deadline()
		require.Equal(t, !st.Sent, bounded, "what outlives the caller's patience does not do so for good")
		require.NotContains(t, string(st.Data), password)
		return nil
	}})
	require.NoError(t, err)
	require.Equal(t, transport.VerdictApplied, res.Verdict, "%+v", res)
	require.Equal(t, []int{0, 1, 2}, s.sections)
	require.Equal(t, sha256.Sum256(content), [32]byte(s.sum.Sum(nil)))
	require.Equal(t, []string{"begin", "send", "next", "send", "next", "send", "wait"}, phases)
}

// Between two sections a service may be away for a while, and what it says of the one
// before is not what became of the next. A section whose answer was lost is known by its
// mark, and the rest goes on from it.
func TestSectionsInTrouble(t *testing.T) {
	s := newSectioned(t)
	p, content := sectionPayload()
	var r recorder
	lose := true
	s.after = func(n int) {
		if n == 0 {
			broken := 0
			s.handle("GET /redfish/v1/UpdateService", func(w http.ResponseWriter, _ *http.Request) {
				if broken++; broken < 4 {
					w.WriteHeader(http.StatusInternalServerError)
					return
				}
				s.handle("GET /redfish/v1/UpdateService", nil)
				s.forget()
				w.WriteHeader(http.StatusBadGateway)
			})
		}
		if n == 1 && lose {
			lose = false
			panic(http.ErrAbortHandler)
		}
	}
	conn := dial(t, s.endpoint())
	res, err := transport.Update(t.Context(), conn, p, transport.UpdateOptions{Checkpoint: r.keep})
	require.NoError(t, err)
	require.False(t, lose)
	require.Equal(t, transport.VerdictApplied, res.Verdict, "%+v", res)
	require.Equal(t, []int{0, 1, 2}, s.sections)
	require.Equal(t, sha256.Sum256(content), [32]byte(s.sum.Sum(nil)))
}

// A manager that dies with the last byte of a section goes on where the service is known not
// to have got it, and claims nothing of the whole otherwise.
func TestSectionsResumed(t *testing.T) {
	for _, tells := range []bool{true, false} {
		s := newSectioned(t)
		if tells {
			s.edit("/redfish/v1/Managers/1", func(o obj) { o["LastResetTime"] = "2026-01-01T00:00:00Z" })
		}
		// Of system firmware, nothing would be seen before a reboot.
		s.edit("/redfish/v1/UpdateService/FirmwareInventory/BMC", func(o obj) { o["Name"] = "System ROM" })
		p, _ := sectionPayload()
		p.Name = "System ROM"
		died, sends := errors.New("the manager died"), 0
		var state transport.State
		conn := dial(t, s.endpoint())
		_, err := transport.Update(t.Context(), conn, p, transport.UpdateOptions{Checkpoint: func(_ context.Context, st transport.State) error {
			if state = st; st.Sent {
				if sends++; sends == 2 {
					return died
				}
			}
			return nil
		}})
		require.ErrorIs(t, err, died)
		require.True(t, state.Sent)
		require.Eventually(t, func() bool { return s.seen("POST /cgi-bin") == 2 }, 20*time.Second, time.Millisecond)
		res, err := transport.Update(t.Context(), conn, p, transport.UpdateOptions{Resume: &state})
		require.NoError(t, err)
		if tells {
			require.Equal(t, transport.VerdictApplied, res.Verdict, "%+v", res)
			require.Equal(t, []int{0, 1, 2}, s.sections)
			continue
		}
		require.Equal(t, transport.VerdictUnknown, res.Verdict, "%+v", res)
		require.Contains(t, res.Text, "section 2 of 3")
		require.Equal(t, []int{0}, s.sections)
	}
}

// A section that is known not to arrive is sent twice at most. Where the target can fetch
// the package instead it does so once, from its beginning; also when a manager has died
// between the two.
func TestSectionsInVain(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789abcdef"), (sectionBytes+1000)/16)
	var pkg bytes.Buffer
	z := zip.NewWriter(&pkg)
	for _, f := range []struct{ name, content string }{
		{"payload.json", `{"PackageFormat":"FWPKG-v2","Devices":{"Device":[{"Target":"T-1","FirmwareImages":[{"FileName":"x.bin","DirectFlashOk":true}]}]}}`},
		{"x.bin", string(content)},
	} {
		w, err := z.CreateHeader(&zip.FileHeader{Name: f.name, Method: zip.Store})
		require.NoError(t, err)
		_, err = w.Write([]byte(f.content))
		require.NoError(t, err)
	}
	require.NoError(t, z.Close())
	died := errors.New("the manager died")
	for _, c := range []struct {
		name    string
		file    transport.File
		from    int // the first section that it does not take
		dies    bool
		pushes  int
		fetches int
	}{
		{"no other way", transport.BytesFile("fw.bin", content), 0, false, 2, 0},
		{"the first", transport.BytesFile("fw.fwpkg", pkg.Bytes()), 0, false, 2, 1},
		{"the last, and killed", transport.BytesFile("fw.fwpkg", pkg.Bytes()), 1, true, 2, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSectioned(t)
			s.asILO(obj{"State": "Idle", "UploadCurrentEtag": "older"})
			s.edit("/redfish/v1/Managers/1", func(o obj) { o["LastResetTime"], o["FirmwareVersion"] = "2026-01-01T00:00:00Z", "iLO 5 v2.30" })
			s.edit("/redfish/v1/UpdateService/FirmwareInventory/BMC", func(o obj) { o["SoftwareId"] = "T-1" })
			s.edit("/redfish/v1/UpdateService", func(o obj) {
				o["Actions"] = obj{"Oem": obj{"Hpe": obj{"#HpeiLOUpdateServiceExt.AddFromUri": obj{"target": "/add"}}}}
			})
			s.handle("POST /add", func(_ http.ResponseWriter, r *http.Request) {
				drain(r.Body)
				s.edit("/redfish/v1/UpdateService/FirmwareInventory/BMC", func(o obj) { o["Version"] = "2.00" })
			})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			takes := s.handlers["POST /cgi-bin/uploadFile"]
			pushes := 0
			s.handle("POST /cgi-bin/uploadFile", func(w http.ResponseWriter, r *http.Request) {
				if pushes++; pushes > 4 {
					cancel()
				}
				if pushes <= c.from {
					takes(w, r)
					return
				}
				drain(r.Body)
				w.WriteHeader(http.StatusBadRequest)
			})
			p := transport.Payload{Name: "bmc", Version: "2.00", Files: []transport.File{c.file,
				transport.BytesFile("fw_part1.compsig", []byte("sig 1")), transport.BytesFile("fw_part2.compsig", []byte("sig 2"))}}
			var r recorder
			opts := transport.UpdateOptions{
				Publish: func(context.Context, transport.PublishRequest) (transport.Published, error) {
					return transport.Published{URL: "http://192.0.2.1/fw.fwpkg", Release: func(context.Context) (int64, error) { return 0, nil }}, nil
				},
				Checkpoint: func(ctx context.Context, st transport.State) error {
					if err := r.keep(ctx, st); err != nil || !c.dies || !strings.Contains(string(st.Data), `"way":"add-from-uri"`) {
						return err
					}
					return died
				}}
			ep := s.endpoint()
			ep.Options = hasty()
			conn := dial(t, ep)
			res, err := transport.Update(ctx, conn, p, opts)
			if c.dies {
				require.ErrorIs(t, err, died)
				last := r.last()
				opts.Resume, opts.Checkpoint = &last, nil
				res, err = transport.Update(ctx, conn, p, opts)
			}
			require.NoError(t, err)
			require.Equal(t, c.pushes, pushes)
			require.Equal(t, c.fetches, s.seen("POST /add"))
			if c.fetches == 0 {
				require.Equal(t, transport.VerdictUnknown, res.Verdict)
				require.Contains(t, res.Text, "section 1 of 2 was sent twice")
				return
			}
			require.Equal(t, transport.VerdictApplied, res.Verdict, "%+v", res)
		})
	}
}
