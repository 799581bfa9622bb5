"""Runs mixes of tasks, native then scheduled: rounds.py SECONDS ROUNDS MIX..., for instance `rounds.py 6 1 high low high+low high+low1+low2`.

Stands beside `xsched` and `libshimcuda.so`, or in a folder with copies of them."""
import subprocess,sys,os,time
D=os.path.dirname(os.path.abspath(__file__)); dur=sys.argv[1]
def start(role,mode):
    env=dict(os.environ); r=role.rstrip('0123456789')
    cmd=[sys.executable,D+'/task.py',r,dur]
    if mode=='x':
        env['XSCHED_SOCKET']='/tmp/xs.sock'; cmd=[D+'/xsched','run','--priority',r,'--name',role,'--']+cmd
    return subprocess.Popen(cmd,stdin=subprocess.PIPE,stdout=subprocess.PIPE,text=True,env=env)
def run(tag,roles,mode):
    ps=[start(r,mode) for r in roles]
    rd=[p.stdout.readline().strip() for p in ps]
    time.sleep(0.5)
    for p in ps: p.stdin.write('\n'); p.stdin.flush()
    for p,r in zip(ps,rd): print(tag,r,'|',p.stdout.readline().strip(),'| rc',p.wait(),flush=True)
d=subprocess.Popen([D+'/xsched','serve','--socket','/tmp/xs.sock'],stderr=open('/tmp/serve.log','w'))
time.sleep(0.5)
try:
    for i in range(int(sys.argv[2])):
        for k in sys.argv[3:]:
            roles=k.split('+')
            if len(roles)==1: run('alone-'+k,roles,'n')
            else: run('native%d '%i+k,roles,'n'); run('xsched%d '%i+k,roles,'x')
finally: d.terminate(); d.wait()
