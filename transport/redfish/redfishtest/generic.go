package redfishtest

import (
	"context"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"slices"
)

const (
	simpleUpdatePath = updatePath + "/Actions/UpdateService.SimpleUpdate"
	startUpdatePath  = updatePath + "/Actions/UpdateService.StartUpdate"
	multipartPath    = updatePath + "/update-multipart"
	pushRawPath      = updatePath + "/update"
)

// genericTree adds the update service of DSP0266 and DSP2046.
func (s *Server) genericTree(t *tree) {
	if root := t.nodes[s.clean("/redfish/v1")]; root != nil {
		root["Vendor"], root["Product"], root["RedfishVersion"] = "Example", "Management Controller", "1.17.0"
		root["ProtocolFeaturesSupported"] = object{"ExpandQuery": object{"ExpandAll": true, "NoLinks": true, "Levels": true, "MaxLevels": 1}}
	}
	if !t.is(updatePath) {
		return
	}
	simple := object{"target": simpleUpdatePath, "TransferProtocol@Redfish.AllowableValues": []any{"HTTP", "HTTPS"}}
	update := t.add(updatePath, "#UpdateService.v1_11_0.UpdateService", object{
		"Name": "Update Service", "ServiceEnabled": true, "Status": object{"State": "Enabled", "Health": "OK"},
		"FirmwareInventory": t.link(inventoryPath), "SoftwareInventory": t.link(updatePath + "/SoftwareInventory"),
		"HttpPushUri": pushRawPath, "MultipartHttpPushUri": multipartPath, "MaxImageSizeBytes": int64(4) << 30,
		"Actions": object{
			"#UpdateService.SimpleUpdate": simple,
			"#UpdateService.StartUpdate":  object{"target": startUpdatePath},
		},
	})
	s.pushTree(update)
	if !s.cfg.NoApplyTime {
		support := object{"@odata.type": "#Settings.v1_3_3.OperationApplyTimeSupport", "SupportedValues": supportedTimes()}
		simple["@Redfish.OperationApplyTimeSupport"] = support
		update["MultipartHttpPushUri@Redfish.OperationApplyTimeSupport"] = support
	}
}

func (s *Server) genericActions(m map[string]handler) {
	m[simpleUpdatePath] = s.genericSimpleUpdate
	m[startUpdatePath] = s.startUpdate
	m[multipartPath] = s.multipartPush
	m[pushRawPath] = s.rawPush
}

// when an update is applied (@Redfish.OperationApplyTime).
var applyTimes = []string{"", "Immediate", "OnReset", "OnStartUpdateRequest"}

// later are updates that wait to be started. s.mu guards it.
type later struct {
	when    string
	content *content
	targets []string
}

// genericSimpleUpdate is SimpleUpdate (DSP2046).
func (s *Server) genericSimpleUpdate(x *exchange, r *http.Request, _ Account) error {
	const action = "UpdateService.SimpleUpdate"
	o, err := x.decode(r)
	if err != nil {
		return err
	}
	names := []string{"ImageURI", "TransferProtocol", "Targets", "Username", "Password", "ForceUpdate", "@Redfish.OperationApplyTime"}
	if s.cfg.NoApplyTime {
		names = names[:len(names)-1]
	}
	if err := known(action, o, names...); err != nil {
		return err
	}
	uri, when := text(o, "ImageURI"), text(o, "@Redfish.OperationApplyTime")
	if uri == "" {
		return bad("ActionParameterMissing", action, "ImageURI")
	}
	if imageURL(uri) == nil {
		return bad("ActionParameterNotInList", uri, "ImageURI")
	}
	if !slices.Contains(applyTimes, when) {
		return bad("ActionParameterNotInList", when, "@Redfish.OperationApplyTime")
	}
	return s.start(x, r, "Simple update", func(ctx context.Context) error {
		c, err := s.pull(ctx, uri, "")
		if err != nil {
			return err
		}
		return s.apply(ctx, c, when, list(o, "Targets"))
	})
}

// apply verifies a file and writes it when it is time.
func (s *Server) apply(ctx context.Context, c *content, when string, targets []string) error {
	if err := s.verify(ctx, c); err != nil {
		return err
	}
	if when == "OnReset" || when == "OnStartUpdateRequest" {
		s.mu.Lock()
		s.repo.later = append(s.repo.later, later{when, c, targets})
		s.mu.Unlock()
		return nil
	}
	return s.write(ctx, c, "Bmc", targets)
}

// startUpdate is StartUpdate: it writes what waits for it.
func (s *Server) startUpdate(x *exchange, r *http.Request, _ Account) error {
	if _, err := x.decode(r); err != nil {
		return err
	}
	s.mu.Lock()
	waiting := s.takeLater("OnStartUpdateRequest")
	if len(waiting) == 0 {
		s.mu.Unlock()
		return &message{status: http.StatusConflict, id: "ResourceInUse"}
	}
	if err := s.begin(r); err != nil {
		s.repo.later = append(s.repo.later, waiting...)
		s.mu.Unlock()
		return err
	}
	t := s.newTask(r, "Start update", s.cfg.Tasks)
	s.mu.Unlock()
	s.launch(t, func(ctx context.Context) error {
		for _, w := range waiting {
			if err := s.write(ctx, w.content, "Bmc", w.targets); err != nil {
				return err
			}
		}
		return nil
	})
	if t == nil {
		s.success(x)
		return nil
	}
	s.answerTask(x, t, s.cfg.Tasks)
	return nil
}

// takeLater removes what waits for something. s.mu is held.
func (s *Server) takeLater(when string) (out []later) {
	s.repo.later = slices.DeleteFunc(s.repo.later, func(l later) bool {
		if l.when == when {
			out = append(out, l)
		}
		return l.when == when
	})
	return out
}

// applyLater writes what waits for a reset.
func (s *Server) applyLater(ctx context.Context) {
	s.mu.Lock()
	waiting := s.takeLater("OnReset")
	s.mu.Unlock()
	for _, w := range waiting {
		if err := s.write(ctx, w.content, "Bmc", w.targets); err != nil {
			s.mu.Lock()
			s.journal = append(s.journal, "Update failed: "+err.Error())
			s.mu.Unlock()
		}
	}
	if len(waiting) > 0 {
		s.mu.Lock()
		s.flash = flashState{busy: s.flash.busy, state: "Idle", task: s.flash.task}
		s.mu.Unlock()
	}
}

// updateParameters is the first part of a multipart push.
type updateParameters struct {
	Targets   []string
	ApplyTime string // @Redfish.OperationApplyTime
}

// multipartPush is a push to MultipartHttpPushUri (DSP0266, 12.6.3): the part
// UpdateParameters, then the part UpdateFile.
func (s *Server) multipartPush(x *exchange, r *http.Request, _ Account) error {
	kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/form-data" || params["boundary"] == "" {
		return &message{status: http.StatusUnsupportedMediaType, id: "GeneralError"}
	}
	s.mu.Lock()
	err = s.begin(r)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	c := newChecker()
	defer c.discard()
	var p updateParameters
	name, err := func() (string, error) {
		m := multipart.NewReader(r.Body, params["boundary"])
		part, err := m.NextRawPart()
		if err != nil || part.FormName() != "UpdateParameters" {
			return "", bad("PropertyMissing", "UpdateParameters")
		}
		o, err := readObject(part)
		if err != nil {
			return "", err
		}
		p = updateParameters{list(o, "Targets"), text(o, "@Redfish.OperationApplyTime")}
		if s.cfg.NoApplyTime && o["@Redfish.OperationApplyTime"] != nil {
			return "", bad("ActionParameterUnknown", "MultipartHttpPushUri", "@Redfish.OperationApplyTime")
		}
		if !slices.Contains(applyTimes, p.ApplyTime) {
			return "", bad("PropertyValueNotInList", p.ApplyTime, "@Redfish.OperationApplyTime")
		}
		if part, err = m.NextRawPart(); err != nil || part.FormName() != "UpdateFile" {
			return "", bad("PropertyMissing", "UpdateFile")
		}
		name := part.FileName()
		if _, err := io.Copy(c, part); err != nil {
			return "", bad("GeneralError")
		}
		if _, err := m.NextRawPart(); err != io.EOF {
			return "", bad("GeneralError")
		}
		return name, nil
	}()
	if err != nil {
		s.release()
		return err
	}
	return s.pushed(x, r, c.finish(name), p.ApplyTime, p.Targets)
}

// rawPush is a push to HttpPushUri: the body is the file.
func (s *Server) rawPush(x *exchange, r *http.Request, _ Account) error {
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind != "application/octet-stream" {
		return &message{status: http.StatusUnsupportedMediaType, id: "GeneralError"}
	}
	s.mu.Lock()
	err := s.begin(r)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	c := newChecker()
	defer c.discard()
	if _, err := io.Copy(c, r.Body); err != nil {
		s.release()
		return bad("GeneralError")
	}
	s.mu.Lock()
	to := s.pushTo
	s.mu.Unlock()
	return s.pushed(x, r, c.finish("pushed"), to.applyTime, to.uris)
}

// pushed answers for a file that has been received, and applies it.
func (s *Server) pushed(x *exchange, r *http.Request, c *content, when string, targets []string) error {
	s.mu.Lock()
	t := s.newTask(r, "Update", s.cfg.PushTasks)
	s.mu.Unlock()
	s.launch(t, func(ctx context.Context) error { return s.apply(ctx, c, when, targets) })
	if t == nil {
		s.success(x)
		return nil
	}
	s.answerTask(x, t, s.cfg.PushTasks)
	return nil
}
