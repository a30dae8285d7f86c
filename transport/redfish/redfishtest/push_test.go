package redfishtest_test

import (
	"bytes"
	"encoding/json"
	"io"
	"mime/multipart"
	"net/http"
	"testing"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/redfish/redfishtest"
	"github.com/stretchr/testify/require"
)

// field is one part of an upload.
type field struct {
	name, file string
	content    []byte
}

func read(t testing.TB, f transport.File) []byte {
	t.Helper()
	r, err := f.Open(t.Context())
	require.NoError(t, err)
	defer r.Close()
	b, err := io.ReadAll(r)
	require.NoError(t, err)
	return b
}

func form(t testing.TB, parts ...field) (body *bytes.Buffer, contentType string) {
	t.Helper()
	body = new(bytes.Buffer)
	m := multipart.NewWriter(body)
	for _, p := range parts {
		var w io.Writer
		var err error
		if p.file != "" {
			w, err = m.CreateFormFile(p.name, p.file)
		} else {
			w, err = m.CreateFormField(p.name)
		}
		require.NoError(t, err)
		_, err = w.Write(p.content)
		require.NoError(t, err)
	}
	require.NoError(t, m.Close())
	return body, m.FormDataContentType()
}

// push uploads parts to an iLO.
func (c *client) push(parts ...field) answer {
	c.t.Helper()
	body, kind := form(c.t, parts...)
	a, err := c.try("POST", "/cgi-bin/uploadFile", body, http.Header{"Content-Type": {kind}, "Cookie": {"sessionKey=" + c.token}})
	require.NoError(c.t, err)
	return a
}

func (c *client) key() field { return field{name: "sessionKey", content: []byte(c.token)} }

func parameters(t testing.TB, p map[string]any) field {
	b, err := json.Marshal(p)
	require.NoError(t, err)
	return field{name: "parameters", content: b}
}

func filePart(t testing.TB, f transport.File) field {
	return field{name: "file", file: f.Name, content: read(t, f)}
}

// TestPushOrder: parts come in their order, from a session, or the answer is an
// empty 400.
func TestPushOrder(t *testing.T) {
	s := newServer(t, redfishtest.Config{Profile: redfishtest.ILO5})
	c := loggedIn(t, s)
	img := s.Firmware("4").Image("pmc.bin", "2.0", 0)
	key, params, file := c.key(), parameters(t, map[string]any{"UpdateTarget": true}), filePart(t, img)
	sig := field{name: "compsig", file: "pmc.compsig", content: []byte("{}")}
	for name, parts := range map[string][]field{
		"file first":         {file, key, params},
		"no key":             {params, file},
		"parameters first":   {params, key, file},
		"signature too soon": {key, sig, params, file},
		"file too soon":      {key, params, file, sig},
		"wrong key":          {{name: "sessionKey", content: []byte("x")}, params, file},
		"no file":            {key, params},
		"no JSON":            {key, {name: "parameters", content: []byte("{")}, file},
	} {
		t.Run(name, func(t *testing.T) {
			a := c.push(parts...)
			require.Equal(t, http.StatusBadRequest, a.status)
			require.Empty(t, a.body)
			idle(t, s)
			require.Empty(t, s.Flashes())
		})
	}
	body, kind := form(t, key, params, file)
	a, err := c.try("POST", "/cgi-bin/uploadFile", body, http.Header{"Content-Type": {kind}})
	require.NoError(t, err)
	require.Equal(t, http.StatusBadRequest, a.status, "without the cookie")
	basic := newClient(t, s)
	basic.basic = true
	body, kind = form(t, key, params, file)
	a, err = basic.try("POST", "/cgi-bin/uploadFile", body, http.Header{"Content-Type": {kind}, "Cookie": {"sessionKey=" + c.token}})
	require.NoError(t, err)
	require.Equal(t, http.StatusBadRequest, a.status, "with Basic")
	forged := newClient(t, s)
	forged.token = "forged"
	require.Equal(t, http.StatusBadRequest, forged.push(forged.key(), params, file).status, "without a session")
	require.Equal(t, http.StatusOK, c.push(key, params, file).status)
	idle(t, s)
	require.Equal(t, "2.0", s.Firmware("4").Version)
	require.Equal(t, http.StatusOK, c.push(key, filePart(t, s.Firmware("4").Image("pmc.bin", "2.1", 0))).status)
	idle(t, s)
	require.Equal(t, "2.1", s.Firmware("4").Version, "without parameters the image is flashed")
}

func (c *client) state() (state, message string) {
	c.t.Helper()
	a := c.get("/redfish/v1/UpdateService/")
	state, _ = at(a.json, "Oem", "Hpe", "State").(string)
	message, _ = at(a.json, "Oem", "Hpe", "Result", "MessageId").(string)
	return state, message
}

// TestPushOutcomes: what becomes of uploads that are taken.
func TestPushOutcomes(t *testing.T) {
	flash := map[string]any{"UpdateTarget": true, "UpdateRepository": false}
	keep := map[string]any{"UpdateTarget": false, "UpdateRepository": true}
	both := map[string]any{"UpdateTarget": true, "UpdateRepository": true, "ETag": "tag"}
	good := redfishtest.Profile(redfishtest.ILO5).Firmware()
	pmc, raid := good[3], good[4]
	image := pmc.Image("pmc.bin", "2.0", 10_000)
	corrupt, err := redfishtest.Corrupt(image, 5000)
	require.NoError(t, err)
	short, err := redfishtest.Truncate(image, 9000)
	require.NoError(t, err)
	spoilt, err := redfishtest.Corrupt(pmc.Package("pmc.fwpkg", "2.0", 10_000), 6000)
	require.NoError(t, err)
	smart := redfishtest.Component("cp1.exe", 1000)
	sigs, err := redfishtest.Sign(smart)
	require.NoError(t, err)
	otherSigs, err := redfishtest.Sign(redfishtest.Component("cp1.exe", 1001))
	require.NoError(t, err)
	compsig := func(f transport.File) *field {
		return &field{name: "compsig", file: f.Name, content: read(t, f)}
	}
	for name, c := range map[string]struct {
		params      map[string]any
		sig         *field
		file        transport.File
		state, id   string
		id4, stored string
	}{
		"flash":             {params: flash, file: image, state: "Complete", id4: "2.0"},
		"keep":              {params: keep, file: image, state: "Complete", stored: "pmc.bin"},
		"both":              {params: both, file: image, state: "Complete", id4: "2.0", stored: "pmc.bin"},
		"package":           {params: both, file: pmc.Package("pmc.fwpkg", "2.0", 10_000), state: "Complete", id4: "2.0", stored: "pmc.fwpkg"},
		"corrupt":           {params: flash, file: corrupt, state: "Error", id: "UpdateInvalidFile"},
		"truncated":         {params: flash, file: short, state: "Error", id: "UpdateInvalidFile"},
		"corrupt package":   {params: both, file: spoilt, state: "Error", id: "UpdateInvalidFile"},
		"forged":            {params: flash, file: redfishtest.Image(redfishtest.ImageSpec{Name: "x.bin", Targets: pmc.Targets, Version: "3", Forged: true}), state: "Error", id: "UpdateSignatureValidationFailed"},
		"for nothing here":  {params: flash, file: redfishtest.Image(redfishtest.ImageSpec{Name: "x.bin", Targets: []string{"none"}, Version: "3"}), state: "Error", id: "UpdateInvalidFile"},
		"stepping stone":    {params: flash, file: redfishtest.Image(redfishtest.ImageSpec{Name: "x.bin", Targets: pmc.Targets, Version: "3", Minimum: "2.0"}), state: "Error", id: "MinimumFirmwareVersionRequirementNotMet"},
		"for UEFI only":     {params: flash, file: raid.Package("raid.fwpkg", "5.0", 10_000), state: "Complete", stored: "raid.fwpkg"},
		"component":         {params: flash, sig: compsig(sigs[0]), file: smart, state: "Complete", stored: "cp1.exe"},
		"without signature": {params: keep, file: smart, state: "Error", id: "UpdateSignatureValidationFailed"},
		"other signature":   {params: keep, sig: compsig(otherSigs[0]), file: smart, state: "Error", id: "UpdateSignatureValidationFailed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, redfishtest.Config{Profile: redfishtest.ILO6})
			cl := loggedIn(t, s)
			parts := []field{cl.key(), parameters(t, c.params)}
			if c.sig != nil {
				parts = append(parts, *c.sig)
			}
			require.Equal(t, http.StatusOK, cl.push(append(parts, filePart(t, c.file))...).status)
			idle(t, s)
			state, id := cl.state()
			require.Equal(t, c.state, state, s.Log())
			if c.id != "" {
				require.Equal(t, "iLO.2.14."+c.id, id)
			}
			want := c.id4
			if want == "" {
				want = "1.0.7"
			}
			require.Equal(t, want, s.Firmware("4").Version)
			if c.stored == "" {
				require.Empty(t, s.Components())
			} else {
				require.Equal(t, []string{c.stored}, s.Components())
			}
		})
	}
}

// TestSections: a large component comes in sections, each with its signature, one
// after the other.
func TestSections(t *testing.T) {
	s := newServer(t, redfishtest.Config{Profile: redfishtest.ILO5})
	c := loggedIn(t, s)
	// Twice the size of a section exactly: there is no short one at the end.
	f := redfishtest.Component("cp2.rpm", 2*redfishtest.SectionSize)
	sections, err := redfishtest.Sections(f)
	require.NoError(t, err)
	sigs, err := redfishtest.Sign(f)
	require.NoError(t, err)
	require.Len(t, sections, 2)
	require.Equal(t, "cp2_part2.compsig", sigs[1].Name)
	send := func(section, content int) string {
		a := c.push(c.key(), parameters(t, map[string]any{"UpdateRepository": true, "Section": section}),
			field{name: "compsig", file: "cp2.compsig", content: read(t, sigs[section])}, filePart(t, sections[content]))
		idle(t, s)
		if a.status != http.StatusOK {
			return a.id()
		}
		state, _ := c.state()
		return state
	}
	require.Equal(t, "UpdateInvalidFile", send(1, 1), "the second before the first")
	require.Equal(t, "Complete", send(0, 0))
	require.Empty(t, s.Components())
	require.Equal(t, "Error", send(1, 0), "the first as the second")
	require.Equal(t, "UpdateInvalidFile", send(1, 1), "what has failed begins anew")
	require.Equal(t, "Complete", send(0, 0))
	require.Equal(t, "Complete", send(1, 1))
	require.Equal(t, []string{"cp2.rpm"}, s.Components())
}

// TestPushRights: the recovery set takes a right of its own, a TPM the override
// flag, and a component in use stays.
func TestPushRights(t *testing.T) {
	s := newServer(t, redfishtest.Config{Profile: redfishtest.ILO5, Accounts: []redfishtest.Account{
		{User: "op", Password: "p", Role: redfishtest.NoRecovery}, {User: "reader", Password: "p"},
	}})
	as := func(user string) *client {
		c := newClient(t, s)
		a := c.do("POST", "/redfish/v1/SessionService/Sessions/", map[string]any{"UserName": user, "Password": "p"})
		require.Equal(t, http.StatusCreated, a.status)
		c.token = a.header.Get("X-Auth-Token")
		return c
	}
	img := s.Firmware("4").Image("pmc.bin", "2.0", 0)
	recovery := map[string]any{"UpdateRecoverySet": true, "UpdateRepository": true}
	for _, user := range []string{"op", "reader"} {
		c := as(user)
		a := c.push(c.key(), parameters(t, recovery), filePart(t, img))
		require.Equal(t, http.StatusForbidden, a.status)
		require.Equal(t, "InsufficientPrivilege", a.id())
	}
	c := loggedIn(t, s)
	require.Equal(t, http.StatusOK, c.push(c.key(), parameters(t, recovery), filePart(t, img)).status)
	idle(t, s)

	tpm := s.Inject(redfishtest.Fault{Kind: redfishtest.TPM})
	require.Equal(t, "Enabled", at(c.get("/redfish/v1/Systems/1").json["TrustedModules"].([]any)[0].(map[string]any), "Status", "State"))
	a := c.push(c.key(), parameters(t, map[string]any{"UpdateTarget": true}), filePart(t, img))
	require.Equal(t, "FWFlashTPMOverrideFlagRequired", a.id())
	require.Equal(t, http.StatusOK, c.push(c.key(), parameters(t, map[string]any{"UpdateTarget": true, "TPMOverride": true}), filePart(t, img)).status)
	idle(t, s)
	require.Equal(t, "2.0", s.Firmware("4").Version)
	require.Equal(t, 1, tpm.Hits())

	s.Enqueue(redfishtest.QueueItem{Name: "a", Filename: "pmc.bin", UpdatableBy: []string{"Uefi"}})
	a = c.push(c.key(), parameters(t, map[string]any{"UpdateRepository": true}), filePart(t, img))
	require.Equal(t, "FirmwareFileLocked", a.id())
}

// TestOldILO5: before 2.30 an iLO 5 takes images and no packages.
func TestOldILO5(t *testing.T) {
	for version, want := range map[string]string{"2.18 Jun 22 2020": "Error", "2.30 Aug 24 2020": "Complete"} {
		fw := redfishtest.Profile(redfishtest.ILO5).Firmware()
		fw[0].Version = version
		s := newServer(t, redfishtest.Config{Profile: redfishtest.ILO5, Firmware: fw})
		c := loggedIn(t, s)
		require.Equal(t, want == "Complete", at(c.get("/redfish/v1/UpdateService/").json, "Oem", "Hpe", "Capabilities", "UpdateFWPKG"))
		require.Equal(t, http.StatusOK, c.push(c.key(), parameters(t, map[string]any{"UpdateTarget": true}), filePart(t, fw[3].Package("x.fwpkg", "9", 0))).status)
		idle(t, s)
		require.Equal(t, want, s.State(), version)
		require.Equal(t, http.StatusOK, c.push(c.key(), parameters(t, map[string]any{"UpdateTarget": true}), filePart(t, fw[3].Image("x.bin", "10", 0))).status)
		idle(t, s)
		require.Equal(t, "10", s.Firmware("4").Version)
	}
}
