package smb_test

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/smb"
	"github.com/roundsman-go/roundsman/transport/smb/smbtest"
	"github.com/stretchr/testify/require"
)

// proliant is what WMI tells of a host.
func proliant() map[string][]map[string]any {
	entity := func(id, name, service string, hardware, compatible []string) map[string]any {
		return map[string]any{"DeviceID": id, "Name": name, "Manufacturer": "HPE", "Service": service, "HardwareID": hardware, "CompatibleID": compatible}
	}
	const nic = `PCI\VEN_8086&DEV_1572&SUBSYS_22fd103c&REV_02\3&11583659&0&00`
	classes := map[string][]map[string]any{
		"Win32_OperatingSystem":       {{"CSName": "LABSERVER", "Version": "10.0.20348"}},
		"Win32_ComputerSystemProduct": {{"Vendor": "HPE", "Name": "ProLiant DL380 Gen10", "IdentifyingNumber": "CZ12345678 ", "UUID": "31393736-3836-5A43-3232-333430304A4B"}},
		"Win32_BIOS": {{"Manufacturer": "HPE", "SMBIOSBIOSVersion": "U30", "SystemBiosMajorVersion": uint8(2), "SystemBiosMinorVersion": uint8(36),
			"ReleaseDate": "20200716000000.000000+000"}},
		"Win32_PnPEntity": {
			entity(nic, "Ethernet 10Gb", "i40ea", []string{`PCI\VEN_8086&DEV_1572&SUBSYS_22fd103c&REV_02`}, []string{`PCI\VEN_8086&CC_020000`, `PCI\CC_0200`}),
			entity(`PCI\VEN_9005&DEV_028F&SUBSYS_0654103C\4&1`, "Smart Array P408i-a", "SmartPqi", []string{`PCI\VEN_9005&DEV_028F&SUBSYS_0654103C`}, []string{`PCI\CC_010700`}),
			entity(`PCI\VEN_103C&DEV_3307\4&2`, "iLO Management", "hpqilo3", []string{`PCI\VEN_103C&DEV_3307`}, []string{`PCI\CC_0880`}),
			entity(`PCI\VEN_8086&DEV_2020\4&3`, "Host bridge", "", []string{`PCI\VEN_8086&DEV_2020`}, []string{`PCI\CC_0600`}),
			entity(`ROOT\KDNIC\0000`, "Kernel debug", "kdnic", nil, nil),
			entity(`SCSI\DISK&VEN_HP&PROD_LOGICAL\5&0`, "HP LOGICAL VOLUME", "disk", []string{`SCSI\Disk`}, nil),
		},
		"Win32_PnPSignedDriver": {
			{"DeviceID": nic, "DeviceClass": "NET", "DriverVersion": "1.16.202.10", "InfName": "oem5.inf"},
			{"DeviceID": `PCI\VEN_103C&DEV_3307\4&2`, "DeviceClass": "SYSTEM", "DriverVersion": "4.7.1.0", "InfName": "oem7.inf"},
			{"DeviceID": `SCSI\DISK&VEN_HP&PROD_LOGICAL\5&0`, "DeviceClass": "DISKDRIVE", "DriverVersion": "10.0.1", "InfName": "disk.inf"},
		},
		"Win32_NetworkAdapter": {{"PNPDeviceID": nic, "NetConnectionID": "Embedded LOM 1", "MACAddress": "98:F2:B3:00:00:01"},
			{"PNPDeviceID": nil, "NetConnectionID": nil, "MACAddress": nil}},
		"Win32_DiskDrive": {{"DeviceID": `\\.\PHYSICALDRIVE0`, "PNPDeviceID": `SCSI\DISK&VEN_HP&PROD_LOGICAL\5&0`, "Model": "HP LOGICAL VOLUME", "SerialNumber": "PEYHC0DRH", "FirmwareRevision": "3.00"}},
	}
	return classes
}

func TestWMI(t *testing.T) {
	t.Parallel()
	srv := serve(t, smbtest.Config{})
	wmi := &wmiServer{classes: proliant()}
	ep := endpoint(srv)
	ep.Options = smb.Options{WMI: true}
	conn := dialWith(t, beside(srv, atPorts(wmi.serve(t, srv.User(), srv.Password()))), ep)
	inv, err := transport.ReadInventory(t.Context(), conn)
	require.NoError(t, err)
	require.Len(t, inv.Problems, 1, "there is no registry here: %v", inv.Problems)
	id := inv.Identity
	require.Equal(t, []string{"HPE", "ProLiant DL380 Gen10", "CZ12345678", "31393736-3836-5a43-3232-333430304a4b"}, []string{id.Vendor, id.Product, id.Serial, id.UUID})
	again, err := conn.Identify(t.Context())
	require.NoError(t, err)
	require.Equal(t, id, again)
	require.Equal(t, []transport.Device{
		{ID: "bios", Class: transport.ClassBIOS, Name: "System BIOS", Vendor: "HPE", Firmware: "U30 2.36 07/16/2020", HardwareIDs: []string{"product:ProLiant DL380 Gen10"}},
		{ID: "disk:PEYHC0DRH", Class: transport.ClassDisk, Name: "PHYSICALDRIVE0", Model: "HP LOGICAL VOLUME", Serial: "PEYHC0DRH", Firmware: "3.00",
			Driver: "disk", HardwareIDs: []string{"model:HP LOGICAL VOLUME"}},
		{ID: `PCI\VEN_8086&DEV_1572&SUBSYS_22FD103C&REV_02\3&11583659&0&00`, Class: transport.ClassNIC, Name: "Embedded LOM 1", Vendor: "HPE", Model: "Ethernet 10Gb",
			Serial: "98:f2:b3:00:00:01", Driver: "i40ea", DriverVersion: "1.16.202.10",
			HardwareIDs: []string{"pci:8086:1572:103c:22fd", "pci:8086:1572", `PCI\VEN_8086&DEV_1572&SUBSYS_22FD103C&REV_02`}},
		{ID: `PCI\VEN_9005&DEV_028F&SUBSYS_0654103C\4&1`, Class: transport.ClassController, Name: "Smart Array P408i-a", Vendor: "HPE", Model: "Smart Array P408i-a", Driver: "SmartPqi",
			HardwareIDs: []string{"pci:9005:028f:103c:0654", "pci:9005:028f", `PCI\VEN_9005&DEV_028F&SUBSYS_0654103C`}},
		{ID: `PCI\VEN_103C&DEV_3307\4&2`, Class: "system", Name: "iLO Management", Vendor: "HPE", Model: "iLO Management", Driver: "hpqilo3", DriverVersion: "4.7.1.0",
			HardwareIDs: []string{"pci:103c:3307", `PCI\VEN_103C&DEV_3307`}},
	}, inv.Devices)
	wmi.mu.Lock()
	defer wmi.mu.Unlock()
	require.Equal(t, 2+len(wmi.queries), wmi.released, "what was opened is given back")
	for _, q := range wmi.queries {
		require.NotContains(t, q, "Win32_Product ", "it would reconfigure every package")
	}
}

// TestWMIMany has more rows than a response holds, and than a fragment does.
func TestWMIMany(t *testing.T) {
	t.Parallel()
	srv := serve(t, smbtest.Config{})
	wmi := &wmiServer{classes: proliant()}
	var disks []map[string]any
	for i := range 100 {
		disks = append(disks, map[string]any{"DeviceID": "d", "SerialNumber": string(rune('가' + i)), "Model": nil})
	}
	wmi.classes["Win32_DiskDrive"] = disks
	ep := endpoint(srv)
	ep.Options = smb.Options{WMI: true}
	inv, err := transport.ReadInventory(t.Context(), dialWith(t, beside(srv, atPorts(wmi.serve(t, srv.User(), srv.Password()))), ep))
	require.NoError(t, err)
	n := 0
	for _, d := range inv.Devices {
		if d.Class == transport.ClassDisk {
			n++
		}
	}
	require.Equal(t, 100, n)
}

// What cannot be had is told by class, and of the whole by which rule and port.
func TestWMIRefused(t *testing.T) {
	t.Parallel()
	srv := serve(t, smbtest.Config{})
	read := func(wmi *wmiServer, change func(ports map[string]string)) (*transport.Inventory, error) {
		ports := wmi.serve(t, srv.User(), srv.Password())
		if change != nil {
			change(ports)
		}
		ep := endpoint(srv)
		ep.Options = smb.Options{WMI: true, ConnectTimeout: 5 * time.Second}
		return transport.ReadInventory(t.Context(), dialWith(t, beside(srv, atPorts(ports)), ep))
	}
	inv, err := read(&wmiServer{classes: proliant(), codes: map[string]uint32{"Win32_DiskDrive": 0x80041010, "Win32_BIOS": 0x80041001}}, nil)
	require.NoError(t, err)
	require.Len(t, inv.Problems, 3, "and the registry")
	require.Contains(t, inv.Problems[1].Text+inv.Problems[2].Text, "WBEM_E_INVALID_CLASS")
	require.Len(t, inv.Devices, 3)

	denied := int32(-0x7FF8FFFB) // E_ACCESSDENIED
	_, err = read(&wmiServer{code: denied}, nil)
	require.Equal(t, transport.Code{Space: "hresult", Value: "0x80070005"}, transport.CodeOf(err))
	require.ErrorContains(t, err, "agent")
	require.ErrorContains(t, err, "remote launch")

	_, err = read(&wmiServer{classes: proliant()}, func(ports map[string]string) { delete(ports, "49671") })
	require.ErrorIs(t, err, transport.ErrUnreachable)
	require.ErrorContains(t, err, "49671")
	require.ErrorContains(t, err, "WMI-In")

	// Something else answers on the port.
	_, err = read(&wmiServer{classes: proliant()}, func(ports map[string]string) { ports["135"] = srv.Addr() })
	require.ErrorIs(t, err, transport.ErrTimeout)
	require.ErrorContains(t, err, "DCOM-In")

	elsewhere := &wmiServer{classes: proliant()}
	elsewhere.classes["Win32_OperatingSystem"][0]["CSName"] = "OTHER"
	inv, err = read(elsewhere, nil)
	require.ErrorIs(t, err, transport.ErrTrust)
	require.Empty(t, inv.Identity.Serial)
	require.Empty(t, inv.Devices)

	_, err = read(&wmiServer{classes: proliant(), garbage: true}, nil)
	require.ErrorIs(t, err, transport.ErrProtocol)

	wrong := &wmiServer{classes: proliant()}
	inv, err = read(wrong, func(ports map[string]string) {
		for k, v := range (&wmiServer{classes: proliant()}).serve(t, srv.User(), "battery staple") {
			ports[k] = v
		}
	})
	require.Error(t, err, "who does not know the password cannot answer")
	require.Empty(t, inv.Devices)
	require.False(t, errors.Is(err, errors.ErrUnsupported))
}

// A call that waits for WMI ends with its context, and with the connection.
func TestWMIEnds(t *testing.T) {
	t.Parallel()
	srv := serve(t, smbtest.Config{})
	ep := endpoint(srv)
	ep.Options = smb.Options{WMI: true}
	for what, want := range map[string]error{"cancel": context.Canceled, "close": transport.ErrClosed} {
		mute, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		waits := make(chan struct{})
		go func() {
			c, err := mute.Accept()
			close(waits)
			if err == nil {
				_, _ = io.Copy(io.Discard, c)
				_ = c.Close()
			}
		}()
		conn, err := beside(srv, atPorts(map[string]string{"135": mute.Addr().String()})).Dial(t.Context(), ep)
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			_, err := transport.ReadInventory(ctx, conn)
			ended <- err
		}()
		<-waits
		switch what {
		case "cancel":
			cancel()
		case "close":
			require.NoError(t, conn.Close(t.Context()))
		}
		require.ErrorIs(t, <-ended, want, what)
		require.NoError(t, conn.Close(t.Context()))
		_ = mute.Close()
		cancel()
	}
}
