package redfishtest

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

// hostState is the server that the service manages.
type hostState struct {
	power string // On, Off, PoweringOn, PoweringOff
	busy  bool   // it starts or stops
	boots int
	cold  bool // it was off since it was last on
	start time.Time
}

// Power returns the power state of the host: "On", "Off", "PoweringOn".
func (s *Server) Power() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.host.power
}

// Boots returns how often the host has been started.
func (s *Server) Boots() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.host.boots
}

// Reboot restarts the host, after a power cycle if cycle is set, and returns when
// it runs, or when ctx ends: the restart goes on. What is staged for it becomes
// active, and what the firmware of the host has to install from the task queue of
// an iLO is installed.
func (s *Server) Reboot(ctx context.Context, cycle bool) error {
	kind := "ForceRestart"
	if cycle {
		kind = "PowerCycle"
	}
	if err := s.power(kind); err != nil {
		return err
	}
	return s.Await(ctx, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return !s.host.busy
	})
}

// resetTypes are the values of ResetType.
var resetTypes = []string{"On", "ForceOff", "GracefulShutdown", "ForceRestart", "GracefulRestart", "PushPowerButton", "PowerCycle", "Nmi"}

// power changes the power state.
func (s *Server) power(kind string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.host.busy {
		return &message{status: http.StatusConflict, id: "ResourceInUse"}
	}
	on := s.host.power == "On"
	off := func(ctx context.Context) error {
		s.setPower("PoweringOff")
		if err := s.pause(ctx, 1); err != nil {
			return err
		}
		s.setPower("Off")
		return nil
	}
	var steps []func(context.Context) error
	switch kind {
	case "On":
		if !on {
			steps = append(steps, s.boot)
		}
	case "ForceOff", "GracefulShutdown":
		if on {
			steps = append(steps, off)
		}
	case "PushPowerButton":
		if on {
			steps = append(steps, off)
		} else {
			steps = append(steps, s.boot)
		}
	case "PowerCycle":
		steps = append(steps, off, s.boot)
	case "ForceRestart", "GracefulRestart":
		if !on {
			return bad("InvalidOperationForSystemState")
		}
		steps = append(steps, s.boot)
	case "Nmi":
	default:
		return bad("ActionParameterNotInList", kind, "ResetType")
	}
	if len(steps) == 0 {
		return nil
	}
	s.host.busy = true
	s.notify()
	s.wg.Go(func() {
		for _, step := range steps {
			if step(s.ctx) != nil {
				return
			}
		}
		s.mu.Lock()
		s.host.busy = false
		s.notify()
		s.mu.Unlock()
		s.kick()
	})
	return nil
}

func (s *Server) setPower(p string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.host.power = p
	s.host.cold = s.host.cold || p == "Off"
	s.notify()
}

// boot is the power-on self-test.
func (s *Server) boot(ctx context.Context) error {
	s.setPower("PoweringOn")
	if err := s.bootQueue(ctx); err != nil {
		return err
	}
	s.applyLater(ctx)
	if err := s.pause(ctx, 2); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	what := transport.ActivationReboot
	if s.host.cold {
		what = transport.ActivationPowerCycle
	}
	s.activate(what)
	s.host.cold, s.host.power = false, "On"
	s.host.boots++
	if s.host.start = s.host.start.Add(time.Second); s.host.start.Before(s.now()) {
		s.host.start = s.now().Truncate(time.Second)
	}
	s.notify()
	return nil
}

// systemReset is ComputerSystem.Reset.
func (s *Server) systemReset(x *exchange, r *http.Request, _ Account) error {
	o, err := x.decode(r)
	if err != nil {
		return err
	}
	if err := known("ComputerSystem.Reset", o, "ResetType", "Action"); err != nil {
		return err
	}
	kind := text(o, "ResetType")
	if !slices.Contains(resetTypes, kind) {
		return bad("ActionParameterNotInList", kind, "ResetType")
	}
	if err := s.power(kind); err != nil {
		return err
	}
	s.success(x)
	return nil
}

// hostTree adds the system and its chassis. s.mu is held.
func (s *Server) hostTree(t *tree) {
	sys, cha := s.systemPath(), s.chassisPath()
	maker, model := s.product()
	allowed := make([]any, len(resetTypes))
	for i, v := range resetTypes {
		allowed[i] = v
	}
	bios := s.version(1)
	if s.cfg.Profile == RMC {
		bios = s.version(2)
	}
	status := object{"State": "Enabled", "Health": "OK"}
	t.collection("/redfish/v1/Systems", "ComputerSystemCollection", "Systems", sys)
	system := object{
		"Name": "Computer System", "SystemType": "Physical", "Manufacturer": maker, "Model": model, "SerialNumber": Serial, "SKU": "P02462-B21",
		"UUID": uuid, "BiosVersion": bios, "PowerState": s.host.power, "Status": status, "HostName": "host",
		"Actions": object{"#ComputerSystem.Reset": object{
			"ResetType@Redfish.AllowableValues": allowed, "target": sys + "/Actions/ComputerSystem.Reset" + t.slash,
		}},
		"SecureBoot": t.link(sys + "/SecureBoot"), "Bios": t.link(sys + "/Bios"),
		"Storage": t.link(sys + "/Storage"), "EthernetInterfaces": t.link(sys + "/EthernetInterfaces"),
		"TrustedModules": s.trustedModules(),
		"Links":          object{"ManagedBy": []any{t.link(s.managerPath())}, "Chassis": []any{t.link(cha)}},
	}
	if s.cfg.LastResetTime {
		system["LastResetTime"] = stamp(s.host.start)
	}
	t.add(sys, "#ComputerSystem.v1_5_0.ComputerSystem", system)
	t.add(sys+"/SecureBoot", "#SecureBoot.v1_0_0.SecureBoot", object{"Name": "SecureBoot", "SecureBootEnable": true, "SecureBootCurrentBoot": "Enabled"})
	t.add(sys+"/Bios", "#Bios.v1_0_0.Bios", object{"Name": "BIOS Current Settings", "Attributes": object{"SerialNumber": Serial}})
	t.collection(sys+"/EthernetInterfaces", "EthernetInterfaceCollection", "Ethernet Interfaces", sys+"/EthernetInterfaces/1")
	t.add(sys+"/EthernetInterfaces/1", "#EthernetInterface.v1_4_1.EthernetInterface", object{
		"Name": "Port 1", "MACAddress": "02:00:00:00:00:01", "Status": status,
	})
	drives := []any{t.link(sys + "/Storage/1/Drives/1"), t.link(sys + "/Storage/1/Drives/2")}
	t.collection(sys+"/Storage", "StorageCollection", "Storage", sys+"/Storage/1")
	t.add(sys+"/Storage/1", "#Storage.v1_7_1.Storage", object{
		"Name": "Storage", "Drives": drives, "Drives@odata.count": len(drives), "Status": status,
		"StorageControllers": []any{object{"@odata.id": sys + "/Storage/1#/StorageControllers/0", "MemberId": "0", "Name": "RAID controller", "FirmwareVersion": "4.11"}},
	})
	for i, rev := range []string{"HPD1", "HPD3"} {
		id := string(rune('1' + i))
		t.add(sys+"/Storage/1/Drives/"+id, "#Drive.v1_7_0.Drive", object{
			"Name": "Drive " + id, "Model": "EG000600", "Revision": rev, "SerialNumber": "RFT0000" + id, "CapacityBytes": 600127266816, "Status": status,
		})
	}
}

// product is who makes the server, and which it is.
func (s *Server) product() (maker, model string) {
	maker, model = "Example", "Model 1"
	if s.cfg.Profile.ilo() > 0 {
		maker, model = "HPE", map[int]string{4: "ProLiant DL380 Gen9", 5: "ProLiant DL380 Gen10", 6: "ProLiant DL380 Gen11", 7: "ProLiant DL380 Gen12"}[s.cfg.Profile.ilo()]
	} else if s.cfg.Profile == RMC {
		maker, model = "HPE", "Superdome Flex"
	}
	return maker, model
}

// chassisTree adds the chassis with its network adapters. s.mu is held.
func (s *Server) chassisTree(t *tree) {
	sys, cha := s.systemPath(), s.chassisPath()
	maker, model := s.product()
	status := object{"State": "Enabled", "Health": "OK"}
	t.collection("/redfish/v1/Chassis", "ChassisCollection", "Chassis", cha)
	t.add(cha, "#Chassis.v1_6_0.Chassis", object{
		"Name": "Computer System Chassis", "ChassisType": "RackMount", "Manufacturer": maker, "Model": model, "SerialNumber": Serial,
		"PowerState": s.host.power, "Status": status, "NetworkAdapters": t.link(cha + "/NetworkAdapters"),
		"Links": object{"ComputerSystems": []any{t.link(sys)}, "ManagedBy": []any{t.link(s.managerPath())}},
	})
	adapters := []string{cha + "/NetworkAdapters/1"}
	t.add(adapters[0], "#NetworkAdapter.v1_5_0.NetworkAdapter", object{
		"Name": "Network adapter", "Model": "Example 2-port 10Gb", "Status": status,
		"Controllers": []any{object{"FirmwarePackageVersion": "10.54.7"}},
	})
	for _, f := range s.firmware {
		if f.Adapter {
			adapters = append(adapters, cha+"/NetworkAdapters/"+f.ID)
			t.add(cha+"/NetworkAdapters/"+f.ID, "#NetworkAdapter.v1_5_0.NetworkAdapter", object{
				"Name": f.Name, "Model": f.Name, "Status": status, "Controllers": []any{object{"FirmwarePackageVersion": s.listed(f)}},
			})
		}
	}
	t.collection(cha+"/NetworkAdapters", "NetworkAdapterCollection", "Network Adapters", adapters...)
}

// trustedModules tells whether there is a TPM. s.mu is held.
func (s *Server) trustedModules() []any {
	state := "Absent"
	if s.active(TPM) {
		state = "Enabled"
	}
	return []any{object{"InterfaceType": "TPM2_0", "Status": object{"State": state}}}
}
