package redfish

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/stretchr/testify/require"
)

// sane is what every status is, whatever a target answers.
func sane(t *testing.T, st status) {
	require.False(t, st.claim && st.failed, "%+v", st)
	require.False(t, st.failed && st.running, "%+v", st)
	require.LessOrEqual(t, len(st.text), maxText+len("the task ended as ")+len("..."))
	require.LessOrEqual(t, len(st.code.Value), 300)
	_ = int64(st.percent)
}

// FuzzStatus reads what services answer of an update: as a task or its monitor, as an
// update service, and as a task of the update queue.
func FuzzStatus(f *testing.F) {
	for _, body := range []string{
		`{"@odata.id":"/t","TaskState":"Completed","TaskStatus":"Warning","PercentComplete":"50","StartTime":1,"Messages":[{"MessageId":"iLO.2.34.X"}]}`,
		`{"TaskState":"Interrupted"}`, `{"TaskState":7}`, `{"error":{"@Message.ExtendedInfo":[{"MessageId":"Base.1.4.InternalError"}]}}`, `<html>`, ``,
		`{"State":"COMPLETED","ProgressPercent":1e300,"Flags":["RESET_ILO","X"],"Error":"E"}`,
		`{"Oem":{"Hpe":{"State":"Error","FlashProgressPercent":-1,"Result":{"MessageId":"iLO.2.34.SystemResetRequired","MessageArgs":1},"UploadCurrentEtag":"mark"}}}`,
		`{"Name":"n","State":"Exception","Filename":"f","Result":{"MessageId":"x"}}`,
	} {
		for _, status := range []int{200, 202, 400, 404, 410} {
			f.Add([]byte(body), status)
		}
	}
	f.Fuzz(func(t *testing.T, body []byte, code int) {
		for _, profile := range []Profile{ProfileGeneric, ProfileILO4, ProfileILO5, ProfileRMC} {
			u := &update{conn: &conn{s: &session{target: "t"}, profile: profile, leaves: map[Way]bool{}}, ctx: t.Context(), data: stateData{Mark: "mark", Task: taskRef{URI: "/t"}}}
			rep := &reply{status: code, body: body}
			if st, err := u.readTask("/t", rep, status{}); err == nil {
				sane(t, st)
			}
			if st, err := u.readService("/s", rep, status{}); err == nil {
				sane(t, st)
			}
			u.taskOf(rep)
			require.True(t, u.data.Watch == "" || strings.HasPrefix(u.data.Watch, "/"))
		}
		var item queueItem
		if decode(body, &item) == nil {
			sane(t, item.status(true))
			sane(t, item.status(false))
		}
		var s sessionResource
		if decode(body, &s) == nil {
			s.born()
		}
		_ = decode(body, &resettable{})
	})
}

// FuzzParts reads adapters, controllers and drives. What they refer to is not there.
func FuzzParts(f *testing.F) {
	for _, body := range []string{
		`{"Name":"a","Model":"m","Controllers":[{"FirmwarePackageVersion":"1","Location":{"PartLocation":{"ServiceLabel":"slot"}}}]}`,
		`{"Name":"d","Revision":"HPD4","PhysicalLocation":{"PartLocation":{"ServiceLabel":"bay"}}}`,
		`{"Drives":[{"@odata.id":"/d"},1,null,{"@odata.id":"/e","Id":"1","Name":"x","Revision":"2"}],"Controllers":{"@odata.id":"/c"},"StorageControllers":[{"@odata.id":"/s","FirmwareVersion":3}]}`,
		strings.Repeat(`{"Controllers":`, 100) + `1` + strings.Repeat(`}`, 100),
	} {
		f.Add([]byte(body))
	}
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	f.Fuzz(func(t *testing.T, body []byte) {
		s := newSession(&Transport{}, transport.Endpoint{Address: "t"}, Options{Connections: 1}, "t", Port)
		r := &reader{conn: &conn{s: s}, ctx: gone, op: "inventory", related: map[string]int{}}
		for _, read := range []func(string, []byte) error{r.adapter, r.drive, r.storage} {
			if err := read("/x", body); checkDepth(body) != nil {
				require.Error(t, err)
			}
		}
		for _, d := range r.inv.Devices {
			require.NotEmpty(t, d.ID)
			require.NotEmpty(t, d.Class)
		}
	})
}

func FuzzRetryAfter(f *testing.F) {
	f.Add("7", "")
	f.Add("Thu, 01 Jan 2026 12:00:00 GMT", "Thu, 01 Jan 2026 11:59:00 GMT")
	f.Add("99999999999999999999", "x")
	f.Fuzz(func(t *testing.T, said, date string) {
		d := retryAfter(http.Header{"Retry-After": {said}, "Date": {date}}, time.Unix(1, 0))
		require.True(t, d >= 0 && d <= time.Hour, fmt.Sprint(d))
	})
}
