package redfish

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/stretchr/testify/require"
)

// A weaker activation never stands in for a stronger one, whoever says it.
func TestActivation(t *testing.T) {
	const none, reset, reboot, cycle = transport.ActivationNone, transport.ActivationReset, transport.ActivationReboot, transport.ActivationPowerCycle
	for flags, want := range map[string]transport.Activation{
		"NONE": none, "RESET_ILO": reset, "REQUEST_SYSTEM_WARM_BOOT": reboot, "REQUEST_SYSTEM_COLD_BOOT": cycle, "DEFERRED_AUX_PWR_CYCLE": cycle,
		"RESET_ILO REQUEST_SYSTEM_COLD_BOOT": cycle,
	} {
		require.Equal(t, want, flagged(flags), flags)
	}
	for _, c := range []struct {
		m    message
		want transport.Activation
	}{
		{message{ID: "iLO.2.34.SystemResetRequired"}, reboot},
		{message{ID: "Base.1.13.ResetRequired", Args: texts{"/redfish/v1/Systems/1/Actions/ComputerSystem.Reset", "PowerCycle"}}, cycle},
		{message{ID: "Base.1.13.ResetRequired", Args: texts{"/redfish/v1/Managers/1/Actions/Manager.Reset", "ForceRestart"}}, reset},
		{message{ID: "Base.1.13.ResetRequired"}, reboot},
		{message{ID: "Update.1.0.AwaitToActivate"}, reboot},
		{message{ID: "iLO.2.34.PowerCycleRequired"}, cycle},
		{message{ID: "Base.1.13.Success"}, none},
	} {
		require.Equal(t, c.want, activationOf([]message{c.m}), c.m.ID)
	}
	of := func(class, name string, staged, told transport.Activation) transport.Activation {
		w := &watch{update: &update{data: stateData{Subjects: []subject{{Class: class, Name: name}}, Staged: staged, Told: told}}}
		return w.activation()
	}
	require.Equal(t, cycle, of(transport.ClassBIOS, "System ROM", cycle, none), "the package wants the power off")
	require.Equal(t, cycle, of(transport.ClassBIOS, "System ROM", none, cycle))
	require.Equal(t, cycle, of("firmware", "System Programmable Logic Device", reboot, none))
	require.Equal(t, none, of(transport.ClassBMC, "iLO 5", reboot, none), "it resets by itself")
	require.Equal(t, reboot, of(transport.ClassNIC, "Card", reboot, reset))
}

// A time to be left alone is seconds or a date, by the clock of who says it.
func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	for said, want := range map[string]time.Duration{
		"": 0, "x": 0, "-1": 0, "7": 7 * time.Second, "99999999": time.Hour, now.Add(time.Minute).Format(http.TimeFormat): time.Minute,
		now.Add(-time.Minute).Format(http.TimeFormat): 0, now.Add(48 * time.Hour).Format(http.TimeFormat): time.Hour,
	} {
		require.Equal(t, want, retryAfter(http.Header{"Retry-After": {said}}, now), said)
	}
	require.Equal(t, time.Minute, retryAfter(http.Header{"Retry-After": {now.Add(time.Hour).Format(http.TimeFormat)}, "Date": {now.Add(59 * time.Minute).Format(http.TimeFormat)}}, now))
}

// News brings a look forward, and constant news does not have a target asked without a
// pause.
func TestNap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for interval, want := range map[time.Duration]time.Duration{4 * time.Second: time.Second, time.Hour: 2 * time.Second} {
			s := &session{opts: Options{PollInterval: interval}}
			s.ctx, s.cancel = context.WithCancelCause(t.Context())
			u := &update{conn: &conn{s: s}, ctx: t.Context(), wake: make(chan struct{}, 1)}
			for range 3 {
				u.news()
				began := time.Now()
				require.NoError(t, u.nap())
				require.Equal(t, want, time.Since(began))
			}
			began := time.Now()
			require.NoError(t, u.nap())
			require.Equal(t, interval, time.Since(began))
			s.cancel(nil)
		}
	})
}

// What reads the same counts once in each interval, and anew when it changes.
func TestReadsThatCount(t *testing.T) {
	w := &watch{update: &update{conn: &conn{s: &session{opts: Options{PollInterval: 4 * time.Second}}}}}
	for i, c := range []struct {
		at   int // seconds
		read string
		want bool
	}{{0, "a", false}, {1, "a", false}, {2, "a", false}, {4, "a", false}, {7, "a", false}, {8, "b", false}, {9, "b", false},
		{12, "b", false}, {15, "b", false}, {16, "b", true}, {17, "b", true}, {18, "a", false}, {22, "a", false}, {26, "a", true}} {
		require.Equal(t, c.want, w.settles(c.read, time.Unix(int64(c.at), 0)), "%d: %+v", i, c)
	}
}

func TestClassOf(t *testing.T) {
	for name, want := range map[string]string{
		"iLO 5": transport.ClassBMC, "System ROM": transport.ClassBIOS, "HPE Smart Array P408i-a SR Gen10": transport.ClassController,
		"Drive Backplane": "firmware", "8 SFF 12G Storage Backplane": "firmware", "Power Management Controller Firmware": "firmware", "NVMe Drive 1": transport.ClassDisk,
		"HPE Ethernet 1Gb 4-port 331i Adapter - NIC": transport.ClassNIC, "SN1100Q 16Gb 2p FC HBA": transport.ClassHBA, "SAS Expander Card": "firmware",
		"HPE 6125XL Ethernet Blade Switch": transport.ClassSwitch, "Fibre Channel Switch 8/24c": transport.ClassSwitch, "SAS switch": transport.ClassSwitch,
	} {
		require.Equal(t, want, classOf(nil, name), name)
	}
}

// Whatever a service is made of, what is captured of it is valid and tells nothing that is
// known by its name.
func FuzzRedact(f *testing.F) {
	f.Add([]byte(`{"SerialNumber":"CZ12345678","Text":"of CZ12345678 at 10.1.2.3","Password":"wonderland","MACAddress":"aa-bb-cc-dd-ee-ff","UUID":"1"}`))
	f.Add([]byte(`{"HostName":["a.example.org"],"IPv6":"fe80::1%eth0 and ::ffff:10.0.0.1","UserName":""}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var v map[string]any
		if decode(data, &v) != nil {
			return
		}
		v["SerialNumber"], v["AccountPassword"] = "CZJ0FUZZED99", "wonderland-7"
		r := newRedactor(transport.Credentials{User: "ops"})
		r.learn("", v)
		r.ready()
		out, err := json.Marshal(r.value("", v))
		require.NoError(t, err)
		require.NotContains(t, string(out), "CZJ0FUZZED99")
		require.NotContains(t, string(out), "wonderland-7")
		again, err := json.Marshal(r.value("", v))
		require.NoError(t, err)
		require.Equal(t, string(out), string(again), "the same by the same")
	})
}

// An image is not unpacked that is larger than any is.
func TestImageThatIsTooLarge(t *testing.T) {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	w, err := z.Create("payload.json")
	require.NoError(t, err)
	_, err = w.Write([]byte(`{"Devices":{"Device":[{"FirmwareImages":[{"FileName":"x.bin"}]}]}}`))
	require.NoError(t, err)
	_, err = z.CreateRaw(&zip.FileHeader{Name: "x.bin", Method: zip.Deflate, UncompressedSize64: uint64(maxUnpacked) + 1})
	require.NoError(t, err)
	require.NoError(t, z.Close())
	_, err = image(t.Context(), transport.BytesFile("a.fwpkg", b.Bytes()), "x.bin")
	require.ErrorContains(t, err, "and at most")
}
