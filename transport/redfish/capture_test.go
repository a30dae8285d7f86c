package redfish_test

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/redfish"
	"github.com/roundsman-go/roundsman/transport/redfish/redfishtest"
	"github.com/stretchr/testify/require"
)

// What is captured of a service is served as one, with the same inventory, and does not
// tell whose it is.
func TestCapture(t *testing.T) {
	for _, p := range redfishtest.Profiles() {
		t.Run(string(p), func(t *testing.T) {
			t.Parallel()
			srv := simulator(t, redfishtest.Config{Profile: p, User: "jdoe42"})
			ep := endpointOf(srv, redfish.Options{})
			var out bytes.Buffer
			done, err := (&redfish.Transport{}).Capture(t.Context(), ep, &out, redfish.CaptureOptions{})
			require.NoError(t, err)
			require.Empty(t, done.Problems)
			require.Greater(t, done.Resources, 20)
			require.Zero(t, srv.Sessions())
			text := strings.ToLower(out.String())
			for _, secret := range []string{redfishtest.Serial, "30373237-3132-434d-3230-524654455354", "02:00:00:00:00:01", srv.Password(), "jdoe42", "RFT00001"} {
				require.False(t, strings.Contains(text, strings.ToLower(secret)), secret)
			}
			captured, err := redfishtest.ReadCapture(&out)
			require.NoError(t, err)
			require.Len(t, captured.Resources, done.Resources)
			copied := simulator(t, redfishtest.Config{Capture: captured})
			inventory := func(srv *redfishtest.Server) *transport.Inventory {
				inv, err := transport.ReadInventory(t.Context(), dial(t, endpointOf(srv, redfish.Options{})))
				require.NoError(t, err)
				return inv
			}
			want, got := inventory(srv), inventory(copied)
			require.Equal(t, want.Problems, got.Problems)
			require.Len(t, got.Devices, len(want.Devices))
			for i, d := range want.Devices {
				require.Equal(t, d.ID, got.Devices[i].ID)
				require.Equal(t, d.Firmware, got.Devices[i].Firmware)
				require.Equal(t, d.HardwareIDs, got.Devices[i].HardwareIDs, "what packages are matched by stays")
				require.Equal(t, d.Serial == "", got.Devices[i].Serial == "")
			}
		})
	}
}

// The same value is replaced by the same one wherever it stands, also in paths; versions
// that look like addresses stay.
func TestCaptureIsConsistent(t *testing.T) {
	s := newService(t, nil)
	const chassis = "/redfish/v1/Chassis/CZ1234ABCD"
	s.collection("/redfish/v1/Chassis", chassis)
	s.set(chassis, obj{"@odata.id": chassis, "Id": "CZ1234ABCD", "Name": "Chassis", "SerialNumber": "CZ1234ABCD", "Description": "the one with cz1234abcd",
		"FirmwareVersion": "1.2.3.4", "MACAddress": "94:18:82:AA:BB:CC", "PortId": "941882aabbcc", "IPv4Addresses": []obj{{"Address": "10.1.2.3", "SubnetMask": "255.255.255.0"}},
		"Text": "seen at 10.1.2.3, fe80::9618:82ff:feaa:bbcc and db1.example.org", "HostName": "db1.example.org", "Gateway": "10.1.2.1", "Taken": "12:34:56",
		"Oem":         obj{"SNMPCommunity": "wonderland", "LicenseKey": "AAAAA-BBBBB", "PasswordHash": "$6$x", "HashAlgorithm": "SHA256", "Key": "0x1234", "UserName": "_HPOneViewAdmin"},
		"Destination": "http://10.1.2.3:63001/TOKEN-OF-EVENTS/", "Context": "MARK-OF-EVENTS", "ImageURI": "depot.corp.local/TOKEN-OF-IMAGES/f.bin",
		"HttpHeaders": []any{"X-Any: TOKEN-OF-HEADERS", obj{"X-Other": "TOKEN-OF-OTHERS"}}, "Authorization": "Basic TOKEN-OF-LOGINS",
		"Payload": obj{"TargetUri": "/redfish/v1/UpdateService/Actions/UpdateService.SimpleUpdate", "JsonBody": "{\"ImageURI\":\"https://u:hunter2@depot.corp.local/TOKEN-OF-BODIES/f.bin\"}"},
		"Message": "depot.corp.local does not answer: https:\\/\\/u:hunter2@depot.corp.local\\/TOKEN-OF-TEXTS\\/f.bin.", "HttpPushUri": "https://depot.corp.local/cgi-bin/uploadFile",
		"LogServices": ref(chassis + "/LogServices/1/Entries"), "Actions": obj{"#Chassis.Reset": obj{"target": chassis + "/Actions/Chassis.Reset"}},
		"Elsewhere": ref("https://elsewhere/redfish/v1/Elsewhere"), "Query": ref("/redfish/v1/Systems?$expand=.")})
	s.set(chassis+"/LogServices/1/Entries", obj{"Members": []obj{{"Message": "somebody did something"}}})
	var out bytes.Buffer
	done, err := (&redfish.Transport{}).Capture(t.Context(), s.endpoint(), &out, redfish.CaptureOptions{})
	require.NoError(t, err)
	require.Len(t, done.Problems, 2, "the sessions, and what is of another host, which is looked for here")
	captured, err := redfishtest.ReadCapture(bytes.NewReader(out.Bytes()))
	require.NoError(t, err)
	body := ""
	for path, b := range captured.Resources {
		if strings.HasPrefix(path, "/redfish/v1/Chassis/SERIAL") {
			body = string(b)
		}
	}
	for _, want := range []string{`"FirmwareVersion":"1.2.3.4"`, `"SubnetMask":"255.255.255.0"`, `"HashAlgorithm":"SHA256"`, `"Key":"0x1234"`, `"Taken":"12:34:56"`,
		`"SNMPCommunity":"REDACTED"`, `"LicenseKey":"REDACTED"`, `"PasswordHash":"REDACTED"`, `"UserName":"_HPOneViewAdmin"`, "/Actions/Chassis.Reset",
		`"Destination":"REDACTED"`, `"Context":"REDACTED"`, `"JsonBody":"REDACTED"`, `"HttpPushUri":"/cgi-bin/uploadFile"`, `"Elsewhere":{"@odata.id":"/redfish/v1/Elsewhere"}`,
		`"TargetUri":"/redfish/v1/UpdateService/Actions/UpdateService.SimpleUpdate"`, ` does not answer: https://REDACTED"`} {
		require.Contains(t, body, want)
	}
	for _, gone := range []string{"CZ1234ABCD", "cz1234abcd", "10.1.2", "94:18:82", "941882", "9618:82ff", "example.org", "wonderland", "somebody", user, "TOKEN-OF", "MARK-OF", "hunter2", "corp.local"} {
		require.NotContains(t, out.String(), gone)
	}
	id := body[strings.Index(body, `"Id":"`)+6:]
	id = id[:strings.IndexByte(id, '"')]
	require.Equal(t, 6, strings.Count(body, id), "its own, and in the text and the paths: %s", body)
}

// A subscription tells where its events go to, and by what they are known: neither is for
// others, and what is captured is served without them.
func TestCaptureOfSubscription(t *testing.T) {
	srv := simulator(t, redfishtest.Config{TaskPayload: true})
	subscribeTo(t, srv, "http://depot.corp.local:63001/TOKEN-OF-EVENTS/", "MARK-OF-EVENTS")
	var out bytes.Buffer
	done, err := (&redfish.Transport{}).Capture(t.Context(), endpointOf(srv, redfish.Options{}), &out, redfish.CaptureOptions{})
	require.NoError(t, err)
	require.Empty(t, done.Problems)
	require.Contains(t, out.String(), `"Destination":"REDACTED"`)
	for _, gone := range []string{"TOKEN-OF", "MARK-OF", "corp.local"} {
		require.NotContains(t, out.String(), gone)
	}
	captured, err := redfishtest.ReadCapture(&out)
	require.NoError(t, err)
	_, err = transport.ReadInventory(t.Context(), dial(t, endpointOf(simulator(t, redfishtest.Config{Capture: captured}), redfish.Options{})))
	require.NoError(t, err)
}

// What is too much is left out, and said to be; and a service that is lost leaves nothing
// half.
func TestCaptureBounds(t *testing.T) {
	srv := simulator(t, redfishtest.Config{})
	ep := endpointOf(srv, redfish.Options{})
	var out bytes.Buffer
	done, err := (&redfish.Transport{}).Capture(t.Context(), ep, &out, redfish.CaptureOptions{Resources: 10})
	require.NoError(t, err)
	require.Equal(t, 10, done.Resources)
	require.Contains(t, done.Problems[0].Text, "too many")
	_, err = redfishtest.ReadCapture(&out)
	require.NoError(t, err)

	paged := srv.Inject(redfishtest.Fault{Kind: redfishtest.PagedMembers, Bytes: 1})
	out.Reset()
	_, err = (&redfish.Transport{}).Capture(t.Context(), ep, &out, redfish.CaptureOptions{})
	require.NoError(t, err)
	require.Positive(t, paged.Hits())
	captured, err := redfishtest.ReadCapture(&out)
	require.NoError(t, err)
	require.Equal(t, 4, strings.Count(string(captured.Resources[inventoryPath]), `"@odata.id":"`+inventoryPath+"/"))

	s := newService(t, nil)
	s.handle("GET /redfish/v1/UpdateService/FirmwareInventory/BMC", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	out.Reset()
	_, err = (&redfish.Transport{}).Capture(t.Context(), s.endpoint(), &out, redfish.CaptureOptions{})
	require.ErrorIs(t, err, transport.ErrConnLost)
	require.Zero(t, out.Len())
	require.Zero(t, s.open())
}
