package redfishtest

import (
	"net/http"
	"net/http/httptest"
	"runtime"
	"testing"
)

// BenchmarkNewServer tells what a server costs that nobody asks for anything.
func BenchmarkNewServer(b *testing.B) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var all []*Server
	for b.Loop() {
		s, err := NewServer(Config{Profile: ILO5})
		if err != nil {
			b.Fatal(err)
		}
		all = append(all, s)
	}
	b.StopTimer()
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportMetric((float64(after.HeapAlloc)-float64(before.HeapAlloc))/float64(len(all)), "B-kept/server")
	for _, s := range all {
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkGet tells what an answer costs without the network.
func BenchmarkGet(b *testing.B) {
	for _, path := range []string{"/redfish/v1/UpdateService/", "/redfish/v1/UpdateService/FirmwareInventory/?$expand=.", "/redfish/v1/ResourceDirectory/"} {
		b.Run(path, func(b *testing.B) {
			s, err := NewServer(Config{Profile: ILO5})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			for b.Loop() {
				r := httptest.NewRequest(http.MethodGet, path, nil)
				r.SetBasicAuth(s.User(), s.Password())
				w := httptest.NewRecorder()
				s.serve(w, r)
				if w.Code != http.StatusOK {
					b.Fatal(w.Code)
				}
			}
		})
	}
}
