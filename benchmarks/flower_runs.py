"""Fine-tune with the settings of RESULTS.md, and record what comes of it.

    python -m benchmarks.flower_runs default --input_file=flower_processed_data.npy \
        --ckpt_file=inception_v3.ckpt [more flags of flower_finetune.py]

Settings: default, and again with the features kept; second-stage after it; book, the run that the
book prints. Each goes through the command line of flower_finetune.py, in turn, into a folder of its
own inside --folder, where it goes on if it was ended before. What tables and pictures need is kept
in benchmarks/recorded/flowers-NAME.json, where NAME is the setting or --name.
"""
import argparse
import pathlib
import re

from benchmarks import recording

SETTINGS = {
    'default': [],
    'second-stage': ['--trainable_scopes=InceptionV3', '--learning_rate=0.00001',
                     '--checkpoint_exclude_scopes='],
    'book': ['--batch_norm=batch', '--trainable_scopes=InceptionV3'],
}


def record(setting, name, args):
  """Run a setting and keep what comes of it; print a line about it."""
  model_dir = args.folder / name
  flags = [*SETTINGS[setting], *args.flags]
  first = not list(model_dir.glob('flower.ckpt-*.index'))
  printed, seconds, memory = recording.run_script(
      'flower_finetune.py', *flags, f'--input_file={args.input_file}',
      f'--ckpt_file={args.ckpt_file}', f'--model_dir={model_dir}')
  counts = re.search(r'(\d+) training examples, (\d+) validation examples and (\d+)', printed)
  right, tested = map(int, re.search(r'(\d+) of (\d+) test photos are right', printed).groups())
  curves = recording.read_curves(model_dir / 'train')
  content = {'flags': flags, 'examples': [int(count) for count in counts.groups()],
             'validation': curves['validation_accuracy'], 'test': right / tested}
  if first:  # else it is of a part
    content.update(seconds=round(seconds, 1), memory=memory)
  recording.write_record(f'flowers-{name}', **content)
  print(f'{name}: validation {content["validation"][-1]}, {right} of {tested} test photos, '
        f'{seconds:.1f} s, {memory}', flush=True)


def main():
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('setting', choices=SETTINGS)
  parser.add_argument('--name', help='of the record (default: that of the setting)')
  parser.add_argument('--input_file', default='flower_processed_data.npy')
  parser.add_argument('--ckpt_file', required=True, help='the pre-trained checkpoint; for '
                      'second-stage, the flower.ckpt-STEP of a default run')
  parser.add_argument('--folder', type=pathlib.Path,
                      default=recording.ROOT / 'model-saves' / 'recorded_flowers',
                      help='folder of the model folders')
  args, args.flags = parser.parse_known_args()
  record(args.setting, args.name or args.setting, args)


if __name__ == '__main__':
  main()
