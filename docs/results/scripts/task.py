"""One task of rounds.py: `high` replays ResNet-18 as a CUDA graph 100 times a second, `low` runs ResNet-50 batch 256."""
import os, sys, time, ctypes
import torch, torchvision
role=sys.argv[1]; dur=float(sys.argv[2]); lib=ctypes.CDLL(None)
lv=lambda: lib.xsched_level() if hasattr(lib,'xsched_level') else -1
torch.manual_seed(0)
if role=='high':
    m=torchvision.models.resnet18().cuda().eval(); x=torch.randn(1,3,224,224,device='cuda')
    with torch.inference_mode():
        s=torch.cuda.Stream(); s.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(s):
            for _ in range(5): m(x)
        torch.cuda.current_stream().wait_stream(s)
        g=torch.cuda.CUDAGraph()
        with torch.cuda.graph(g): y=m(x)
    for _ in range(20): g.replay(); torch.cuda.synchronize()
    print('ready',lv(),flush=True); sys.stdin.readline()
    lat=[]; t0=time.monotonic(); i=0
    while True:
        t=t0+i*0.01; i+=1
        if t-t0>dur: break
        d=t-time.monotonic()
        if d>0.0003: time.sleep(d-0.0002)
        while time.monotonic()<t: pass
        g.replay(); torch.cuda.current_stream().synchronize()
        lat.append((time.monotonic()-t)*1e3)
    lat.sort(); n=len(lat); print('high n %d P50 %.3f P95 %.3f P99 %.3f max %.3f level %d'%(n,lat[n//2],lat[int(n*.95)],lat[int(n*.99)],lat[-1],lv()),flush=True)
else:
    b=256
    m=torchvision.models.resnet50().cuda().eval(); x=torch.randn(b,3,224,224,device='cuda')
    with torch.inference_mode():
        for _ in range(5): m(x)
        torch.cuda.synchronize()
        print('ready',lv(),flush=True); sys.stdin.readline()
        t0=time.monotonic(); n=0
        while time.monotonic()-t0<dur:
            m(x); torch.cuda.synchronize(); n+=1
        print('low it/s %.2f level %d'%(n/(time.monotonic()-t0),lv()),flush=True)
