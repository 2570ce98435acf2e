"""flower_dist_finetune.py: the whole Inception-v3, small, on several processes."""
import re

import clusters
import pytest
import running

SCRIPT = 'flower_dist_finetune.py'


@pytest.mark.parametrize('mode', ['--nosync', '--sync'])
def test_trains_validates_tests_and_goes_on(mode, photos_file, backbone_ckpt, tmp_path):
  flags = [f'--input_file={photos_file}', f'--ckpt_file={backbone_ckpt}',
           f'--model_dir={tmp_path}', '--batch_size=2', mode]
  for steps, saved in ((2, '0 1'), (4, '2 3')):
    with clusters.Cluster(SCRIPT, *flags, f'--steps={steps}', ps=2) as cluster:
      assert cluster.end() == [0, 0, 0, 0]
      chief = cluster.workers[0]
      printed = ' '.join(re.findall(r'Step (\d+): Validation accuracy = [\d.]+%',
                                    '\n'.join(chief.lines)))
      assert printed == saved or mode == '--nosync' and re.fullmatch(
          '(0 1 )?2|0 [12]|(2 )?3|(3 )?4', printed)
      assert any(line.startswith('Final test accuracy = ') for line in chief.lines)
      assert [process.errors for process in cluster.processes] == [[]] * 4
  assert any(line.startswith(f'Going on from {tmp_path}/flower.ckpt-') for line in chief.lines)
  if mode == '--nosync':
    return
  # What it has saved is a checkpoint of flower_finetune.py, which goes on from it.
  result = running.run_script('flower_finetune.py', *flags[:-1], '--trainable_scopes=InceptionV3',
                              '--steps=5', timeout=clusters.TIMEOUT_SECS)
  assert (result.returncode, result.stderr) == (0, '')
  assert f'Going on from {tmp_path}/flower.ckpt-3.' in result.stdout
